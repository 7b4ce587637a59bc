"""The `faiss-*` stores: search by FAISS (Douze et al. 2024, arXiv:2401.08281)."""
