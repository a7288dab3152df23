"""Conformance checks that every method must pass (`attrbench check`)."""
