"""One module for each model family: how a diffusers folder becomes a denoiser."""
