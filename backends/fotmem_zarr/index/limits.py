"""Bounds of the format: what a directory may say, whatever budget it was written with."""

CLUSTER = 128
"""Most keys of a cluster, which is a chunk on disk."""
MAX_SHARD = 128
"""Most clusters of a shard; a power of two."""
MAX_BUCKETS = 64
"""Most buckets that the keys of a head are divided into before they are clustered."""
