"""Executors, which run the jobs of a run (such as computing a shard of gradients) in one or several processes."""
