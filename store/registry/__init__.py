"""The registry: which keys a model needs, here as contexts of runs and in remotes as entries."""
