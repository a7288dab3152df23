"""The cache on disk: artifacts, shards of features, checksums, locks, fingerprints, garbage collection."""
