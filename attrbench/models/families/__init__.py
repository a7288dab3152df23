"""Model families: how a diffusers pipeline folder is loaded as a denoiser, one module for each family."""
