"""Measures what memory does to a model's answers."""
