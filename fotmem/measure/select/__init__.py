"""Chooses a store within limits: it measures small memories and predicts large ones."""
