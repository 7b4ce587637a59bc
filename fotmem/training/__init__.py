"""Training with crossbatch, on transformers' Trainer."""

from fotmem.training.options import TrainingOptions
from fotmem.training.train import Trained, train

__all__ = ["Trained", "TrainingOptions", "train"]
