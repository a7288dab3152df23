"""Executors: they run the jobs of a plan in this process or in several."""
