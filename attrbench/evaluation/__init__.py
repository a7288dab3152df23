"""Run attribution methods on tasks: check requests, plan, compute features, score, and write records."""
