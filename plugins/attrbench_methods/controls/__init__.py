"""Control methods that a useful attribution method must beat: random scores, shuffled gradients, untrained network."""
