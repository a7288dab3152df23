"""The gradient engine: per-sample gradients, sketches and products in one backward pass."""
