"""Finding the strongest training items: exact, HNSW, Faiss."""
