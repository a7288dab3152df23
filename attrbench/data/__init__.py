"""Image data: folders and `datasets` as items, one policy for pixels, pictures that a model generated."""
