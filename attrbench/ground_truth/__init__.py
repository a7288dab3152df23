"""Ground truth from retraining: subset models, linear datamodeling, removal."""
