"""Ground truths for evaluating attribution: linear datamodeling and removal, both by retraining models."""
