"""A heap of the numbers of keys, with that of the largest key first."""

import numpy as np

from fotmem_clusters.compiled.scalars import compiled


@compiled
def heap_of(keys: np.ndarray) -> np.ndarray:
    """Return a heap, int32, of all numbers."""
    heap = np.arange(len(keys)).astype(np.int32)
    for place in range(len(keys) // 2 - 1, -1, -1):
        _sift(heap, len(keys), place, keys)
    return heap


@compiled
def pop(heap: np.ndarray, size: int, keys: np.ndarray) -> int:
    """Return the number of the largest key, and take it from a heap of that size."""
    best = heap[0]
    heap[0] = heap[size - 1]
    _sift(heap, size - 1, 0, keys)
    return best


@compiled
def _sift(heap: np.ndarray, size: int, place: int, keys: np.ndarray) -> None:
    """Move a number down to where it belongs."""
    moved = heap[place]
    key = keys[moved]
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and keys[heap[child + 1]] > keys[heap[child]]:
            child += 1
        if keys[heap[child]] <= key:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = moved
