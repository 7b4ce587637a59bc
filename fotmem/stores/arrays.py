"""Names for NumPy's arrays."""

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
"""Ids or rows of keys."""
Vectors = NDArray[np.float32]
"""Keys or queries, as an index library takes them."""
Scores = NDArray[np.float32]
"""Inner products of queries and keys."""
