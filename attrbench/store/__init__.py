"""The cache on disk: checksummed files, shards of features, locks, fingerprints and garbage collection."""
