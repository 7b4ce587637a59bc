"""Trains models to use a memory.

`tune` trains a finished model, `dictionary` a small one from scratch; both use `fit`.
"""
