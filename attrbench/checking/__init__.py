"""Checking: what every method owes the framework, tried out on a small task that is built for it."""
