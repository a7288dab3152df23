"""The contracts that plugins implement: method, task, metric, feature, denoiser, ground truth, executor."""
