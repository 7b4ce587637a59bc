"""The `clusters` store: exact attention to clusters of keys, an estimate of all others."""
