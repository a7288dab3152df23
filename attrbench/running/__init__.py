"""Running: plan, compute features, fit, score, measure, record."""
