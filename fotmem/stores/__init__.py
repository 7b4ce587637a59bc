"""What a store is, and the pieces to build one from."""
