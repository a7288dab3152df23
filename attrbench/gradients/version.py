"""The version of the gradient engine, in a module without torch for those who only compare it."""

ENGINE_VERSION = 2
"""Raised whenever computed gradients change by more than rounding; part of every feature's fingerprint."""
