"""The stock caches that people already have: their names, their folders, what is finished in them and what is not."""
