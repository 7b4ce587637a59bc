"""The `zarr` store: keys and values on disk, searched through clusters within a RAM budget."""
