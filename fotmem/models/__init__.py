"""Loads models, takes them apart, and replaces their forward functions."""
