"""Halves sets of rows, each where it lies."""

import numpy as np
import torch
from torch import Tensor

from fotmem_clusters.compiled.parts import in_parts
from fotmem_clusters.compiled.products import add_rows, inner_products, numbers_to
from fotmem_clusters.compiled.scalars import compiled, float_of, inner
from fotmem_clusters.compiled.shown import raw
from fotmem_clusters.halving import ITERATIONS


def halved_rows(rows: Tensor, bases: Tensor, held: Tensor) -> Tensor:
    """Halve sets as `fotmem_clusters.halving.halved` does.

    Parameters
    ----------
    rows : Tensor
        Shape ``[n, D]``: as they are stored.
    bases : Tensor
        Shape ``[c]``, int64: what to add to the rows of each set for their places.
    held : Tensor
        Shape ``[c, S]``, int64: rows of each set; -1 after the last, of at least two.

    Returns
    -------
    Tensor
        Shape ``[c, S]``, bool: which belong to the second half.
    """
    second = torch.zeros(held.shape, dtype=torch.bool)
    source, sets = raw(rows), [raw(each) for each in (bases, held, second)]
    in_parts(lambda some: _halve(source, *(each[some] for each in sets)), len(held))
    return second


@compiled
def _halve(rows, bases, held, second):
    vectors = np.empty((held.shape[1], rows.shape[1]), np.float32)
    for number in range(len(held)):
        count = 0
        while count < held.shape[1] and held[number, count] >= 0:
            row = rows[bases[number] + held[number, count]]
            for column in range(len(row)):
                vectors[count, column] = float_of(row[column])
            count += 1
        _halve_vectors(vectors[:count], second[number])


@inner
def _halve_vectors(vectors, second):
    """Divide vectors in two by 2-means; moves them so that their mean is 0."""
    count, dim = vectors.shape
    every, along = numbers_to(count), np.full(count, np.float32(1 / count))
    mean = np.zeros(dim, np.float32)
    add_rows(vectors, every, 0, along, mean)
    far, most = 0, np.float32(-1)
    for place in range(count):
        vector, square = vectors[place], np.float32(0)
        for column in range(dim):
            vector[column] -= mean[column]
            square += vector[column] * vector[column]
        if square > most:
            far, most = place, square
    axis = vectors[far].copy()
    for _ in range(2):  # towards the longest axis
        inner_products(axis, vectors, every, 0, along)
        axis[:] = 0
        add_rows(vectors, every, 0, along, axis)
        _normalise(axis)
    inner_products(axis, vectors, every, 0, along)
    middle = np.float32(0)
    for _ in range(ITERATIONS):
        middle = _step(vectors, every, along, middle, axis)
    size = 0
    for place in range(count):
        second[place] = along[place] > middle
        size += second[place]
    if size in (0, count):  # such as equal vectors
        for place in range(count):
            second[place] = place + 1 > count // 2


@inner
def _step(vectors, every, along, middle, axis):
    """Move two means to the vectors nearer to each; return what is in the middle between them.

    `along` are the places of vectors along `axis`, which joins the means; both are renewed.
    """
    size, count = np.float32(0), np.float32(len(along))
    for place in range(len(along)):
        along[place] = along[place] > middle
        size += along[place]
    total, middle = np.zeros_like(axis), np.float32(0)
    add_rows(vectors, every, 0, along, total)  # vectors sum to 0
    for column in range(len(axis)):
        right = total[column] / max(size, np.float32(1))
        left = -total[column] / max(count - size, np.float32(1))
        axis[column] = right - left
        middle += (right * right - left * left) / np.float32(2)
    inner_products(axis, vectors, every, 0, along)
    return middle


@inner
def _normalise(vector):
    total = np.float32(0)
    for column in range(len(vector)):
        total += vector[column] * vector[column]
    norm = max(np.sqrt(total), np.float32(1e-30))
    for column in range(len(vector)):
        vector[column] /= norm
