"""How plugins are declared and found."""
