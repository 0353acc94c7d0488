"""What keeps a local store from growing for ever: what is held, what may go, and how it goes beside running shims."""
