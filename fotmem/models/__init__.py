"""Takes models apart, loads them, and puts functions in place of their own."""
