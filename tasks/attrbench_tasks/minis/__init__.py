"""Mini tasks that run on a laptop: small diffusion models whose trained weights of a few MB ship with the package."""
