"""Measures quality and cost of stores on captures."""
