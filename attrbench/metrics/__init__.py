"""Metrics that evaluate a method: retrieval, linear datamodeling score, removal, and confidence intervals."""
