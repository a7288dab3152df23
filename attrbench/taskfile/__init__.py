"""Task files: somebody's own model, training set and queries, described in TOML."""
