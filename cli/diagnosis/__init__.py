"""What may be wrong with an installation, its store and its remotes: one module an area, each a list of findings."""
