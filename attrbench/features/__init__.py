"""Feature kinds: what is computed and stored for each item, one kind a module."""
