"""Diffusion models behind one contract: encode, add noise, predict, generate."""
