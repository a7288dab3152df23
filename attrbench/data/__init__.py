"""Read image data sets from folders or the library `datasets`, and keep decoded and generated images in the cache."""
