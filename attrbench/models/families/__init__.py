"""Model families, one module each: loaders of diffusers pipeline folders as denoisers."""
