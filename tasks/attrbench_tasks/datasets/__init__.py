"""Training sets of the tasks: where they come from and how they are put together."""
