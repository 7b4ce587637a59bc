"""Clusters and segments: how keys are found."""
