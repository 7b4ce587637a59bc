"""Looks up rows, as seen from means."""

import torch
from torch import Tensor

from fotmem_clusters.compiled.rows import Column
from fotmem_clusters.compiled.scalars import compiled, float_of, inner, prefetch
from fotmem_clusters.compiled.shown import raw

AHEAD = 8
"""A row is asked for while so many before it are read."""


def offsets_of(
    columns: tuple[Column, Column], head: int, rows: Tensor, nodes: Tensor, means: Tensor
) -> Tensor:
    """Return offsets as `fotmem_clusters.steps.Steps.offsets` does."""
    found = torch.empty(len(rows), means.shape[1], dtype=torch.float32)
    _offsets(*columns, head, *(raw(each) for each in (rows, nodes, means, found)))
    return found


@compiled
def _offsets(keys, values, head, rows, nodes, means, found):
    dim = keys.rows.shape[1]
    for place in range(len(rows)):
        if place + AHEAD < len(rows):
            prefetch(keys.rows, head * keys.room - keys.first + rows[place + AHEAD])
            prefetch(values.rows, head * values.room - values.first + rows[place + AHEAD])
        mean, out = means[nodes[place]], found[place]
        _subtract(keys, head, rows[place], mean[:dim], out[:dim])
        _subtract(values, head, rows[place], mean[dim:], out[dim:])


@inner
def _subtract(source, head, number, mean, out):
    row = source.rows[head * source.room - source.first + number]
    for column in range(len(out)):
        out[column] = float_of(row[column]) - mean[column]
