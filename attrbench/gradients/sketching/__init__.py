"""Linear sketches that compress gradients: the rotation sketch, which stores only a seed, and reference sketches."""
