"""Search for the training items with the highest scores: exhaustive, by HNSW graphs, or by Faiss indexes."""
