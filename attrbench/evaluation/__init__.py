"""A run from request to record: plan, jobs, scoring."""
