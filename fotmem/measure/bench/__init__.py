"""Measures stores on captures: what they find, and what that costs."""
