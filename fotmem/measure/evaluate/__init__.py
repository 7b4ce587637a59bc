"""Measures how memory changes a model's answers."""
