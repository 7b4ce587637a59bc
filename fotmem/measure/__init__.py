"""Measures stores, and models that use them."""
