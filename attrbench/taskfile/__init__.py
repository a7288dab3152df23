"""Task files: TOML files that describe a user's own model, training set and queries as a task."""
