"""Methods that compare images: pixels, SSIM, latents, embeddings of networks."""
