"""Metrics of retrieval quality, and their intervals."""
