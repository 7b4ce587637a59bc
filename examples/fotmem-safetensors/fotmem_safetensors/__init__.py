"""The `safetensors` store of fotmem."""
