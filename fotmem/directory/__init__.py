"""A memory's directory: tokens, documents, keys and values of all memory layers, on disk."""
