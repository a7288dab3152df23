"""Features on disk: shards of consecutive items, fingerprints, verification."""
