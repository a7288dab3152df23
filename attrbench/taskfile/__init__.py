"""Task files: a user's own model, training set and queries, described in TOML."""
