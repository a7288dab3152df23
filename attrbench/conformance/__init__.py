"""Checks that every method must pass (`attrbench check`)."""
