"""The tasks of the DMin paper at their real size (arXiv 2412.08637)."""
