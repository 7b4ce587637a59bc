"""The contract of an adapter."""
