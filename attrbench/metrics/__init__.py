"""Metrics that evaluate attribution methods: retrieval, linear datamodeling, removal, and confidence intervals."""
