"""Training of the shipped weights: the loop, and one module for each kind of network."""
