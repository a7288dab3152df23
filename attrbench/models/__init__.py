"""Diffusion models as denoisers, with one interface to encode images, add noise, predict and generate."""
