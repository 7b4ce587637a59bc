"""The `sample` store of fotmem."""
