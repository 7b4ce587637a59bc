"""Dictionary lookup: the task with which the Focused Transformer paper tests large memories."""
