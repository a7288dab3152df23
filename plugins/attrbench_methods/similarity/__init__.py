"""Attribution baselines that compare images without gradients: pixels, SSIM, latents, network embeddings."""
