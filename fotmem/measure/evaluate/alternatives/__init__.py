"""What a user would do instead of a memory: each way to answer is a class, in a file of its own."""
