"""Files of the cache: shards, checksums, locks, fingerprints, cleaning up."""
