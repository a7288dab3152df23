"""Linear sketches of gradients: the stateless rotation, and the reference forms."""
