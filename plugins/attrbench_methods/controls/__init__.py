"""Controls that a method must beat: random scores, shuffled gradients, an untrained network."""
