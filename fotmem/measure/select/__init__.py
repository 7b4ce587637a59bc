"""Chooses a store for a model, a number of tokens and limits: measured small, foretold large."""
