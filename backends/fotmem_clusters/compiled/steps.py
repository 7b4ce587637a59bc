"""The steps of adding to a tree, compiled."""

import functools

import torch
from torch import Tensor

from fotmem_clusters.compiled.halving import halved_rows
from fotmem_clusters.compiled.measuring import offsets_of
from fotmem_clusters.compiled.nearest import nearest_in
from fotmem_clusters.compiled.rows import columns_of
from fotmem_clusters.compiled.summaries import summary_of
from fotmem_clusters.steps import Grown, Steps
from fotmem_clusters.summaries import Summary


class CompiledSteps(Steps):
    """The same steps; what is read is not copied first, unless it is in a directory."""

    def __init__(self, tree: Grown) -> None:
        super().__init__(tree)
        _prepare(tree.keys.dtype)

    def nearest_in(self, vectors: Tensor, groups: Tensor) -> Tensor:
        return nearest_in(vectors, groups, self.tree.groups.table, self.tree.summaries.keys)

    def halve_rows(self, heads: Tensor, held: Tensor) -> Tensor:
        if self.tree.keys.is_mapped:
            return super().halve_rows(heads, held)
        rows, first, room = self.tree.keys.flat()
        return halved_rows(rows, heads * room - first, held)

    def halve_clusters(self, heads: Tensor, held: Tensor) -> Tensor:
        means = self.tree.summaries.keys
        return halved_rows(means.view(-1, means.shape[2]), heads * means.shape[1], held)

    def summary(self, heads: Tensor, held: Tensor) -> Summary:
        columns = columns_of(self.tree)
        if columns is None:
            return super().summary(heads, held)
        return summary_of(columns, heads, held, self.tree.summaries.origin[:, 0])

    def offsets(self, head: int, rows: Tensor, nodes: Tensor, means: Tensor) -> Tensor:
        columns = columns_of(self.tree)
        if columns is None:
            return super().offsets(head, rows, nodes, means)
        return offsets_of(columns, head, rows, nodes, means)


@functools.cache
def _prepare(dtype: torch.dtype) -> None:
    """Compile what finds near clusters with the rest, not when there are many clusters."""
    vector = torch.zeros(1, 1, 1, dtype=torch.float32)
    group, table = vector.long(), vector.int()
    nearest_in(vector, group, table, vector.to(dtype))
