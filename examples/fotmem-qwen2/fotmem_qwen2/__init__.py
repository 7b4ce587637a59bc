"""fotmem memory layers for Qwen2."""
