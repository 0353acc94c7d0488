"""Stores elsewhere: one abstract base (base.py), one file a kind (folder.py, hub.py)."""
