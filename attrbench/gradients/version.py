"""The engine's version, apart from the engine: whoever only compares it needs no torch."""

ENGINE_VERSION = 1
"""Raised whenever the engine's numbers change by more than rounding; part of every fingerprint."""
