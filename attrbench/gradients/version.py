"""The version number of the gradient engine, part of fingerprints, in a module that does not import torch."""

ENGINE_VERSION = 2
"""Raised whenever computed gradients change by more than rounding; part of every feature's fingerprint."""
