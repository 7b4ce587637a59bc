"""The `exact` store: keys and values in one growing tensor, searched by matrix product."""
