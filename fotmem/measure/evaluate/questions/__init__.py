"""The questions evaluation: natural questions about passages of a text that was read."""
