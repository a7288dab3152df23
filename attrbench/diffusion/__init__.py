"""One face for diffusion models: encode, noise, predict, generate. Nothing else here knows a diffusers class."""
