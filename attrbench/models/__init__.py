"""Diffusion models behind one contract (`Denoiser`): encode, add noise, predict, generate."""
