"""Training with crossbatch, on transformers' Trainer."""
