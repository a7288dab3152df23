"""Image data sets: folders and `datasets`, one policy for pixels, generated pictures."""
