"""What happens when a model with a memory runs."""
