"""The `usearch` store of fotmem."""
