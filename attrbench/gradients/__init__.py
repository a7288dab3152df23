"""The gradient engine: computes per-sample gradients, their sketches and their inner products in one backward pass."""
