"""Golden records: what every method gave on the mini tasks, and the comparison of a later run with it."""
