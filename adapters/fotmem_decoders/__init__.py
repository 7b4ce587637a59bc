"""Adapters for the decoders of transformers that are built like LLaMA: one table of families."""
