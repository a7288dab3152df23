"""Methods that compare gradients: GradDot, TracIn, DMin and relatives."""
