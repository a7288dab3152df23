"""Attribution methods that score by inner products or cosines of gradients: GradDot, TracIn, DMin and relatives."""
