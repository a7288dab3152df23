"""Tasks with the models and data sets of the DMin paper (arXiv 2412.08637) at their real size."""
