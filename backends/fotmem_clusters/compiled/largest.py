"""Finds the largest of some numbers, one after the other."""

import numpy as np

from fotmem_clusters.compiled.scalars import inner

BLOCK = 64
"""Numbers of which the largest is known."""


@inner
def blocks_of(numbers):
    """Return the largest number of each block."""
    largest = np.empty(-(-len(numbers) // BLOCK), np.float32)
    for block in range(len(largest)):
        largest[block] = _largest(numbers, block)
    return largest


@inner
def take_largest(numbers, largest):
    """Return the place of the largest number, and put -inf there."""
    block = np.argmax(largest)
    first = block * BLOCK
    place = first + np.argmax(numbers[first : first + BLOCK])
    numbers[place] = -np.inf
    largest[block] = _largest(numbers, block)
    return place


@inner
def _largest(numbers, block):
    found = np.float32(-np.inf)
    for number in numbers[block * BLOCK : (block + 1) * BLOCK]:
        found = max(found, number)
    return found
