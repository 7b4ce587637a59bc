"""fotmem memory layers for ModernBERT's decoder."""
