"""The report: what a store saved, as a page or a picture."""
