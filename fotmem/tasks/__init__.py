"""What a model with a memory is asked."""
