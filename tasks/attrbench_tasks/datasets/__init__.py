"""Training sets of the benchmark tasks: code that loads them, splits them or builds them from published sources."""
