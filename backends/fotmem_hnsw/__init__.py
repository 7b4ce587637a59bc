"""The `hnsw` store: one graph of hnswlib per head."""
