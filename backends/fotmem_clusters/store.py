"""Attention to all keys: exact where it matters, estimated elsewhere."""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

from fotmem.attention import PartialAttention, merge
from fotmem.stores import Arrays, Bias, IdRanges, IndexedStore, TailEstimate
from fotmem_clusters.attending import Attended, attend_to_clusters, best_rows
from fotmem_clusters.choosing import Limits
from fotmem_clusters.compiled import compiled_for, compiled_steps_for
from fotmem_clusters.compiled.shown import shown_bytes
from fotmem_clusters.options import ClustersOptions
from fotmem_clusters.saving import load_tree, saved_tree
from fotmem_clusters.shapes import TINY
from fotmem_clusters.steps import Steps
from fotmem_clusters.tree import Tree
from fotmem_clusters.view import Viewer

BATCH = 512
"""Rows that enter clusters at a time; newer ones are all compared."""
TARGET_ERROR, BUDGET, SHARE = 0.2, 8192, 32
"""How much a query reads where the options do not say: until its error is this, at most so many
keys, or where that is more, one of so many."""
SEARCHED = 1024
"""Rows that a search reads, at least."""
BUDGET_PER_HIT = 16
"""Rows that a search reads for each hit, at least."""
FEW = 4096
"""Rows that attention compares with all of them, rather than look for those among clusters."""


class ClustersStore(IndexedStore):
    """Keys in clusters; a query reads the most promising ones, and estimates the others.

    A search compares what it reads. Attention to all keys (``top_k=None``) is exact over what it
    reads; each cluster that it does not read is one more entry: the mean value, with the weight
    that mean, number and spread of its keys predict.

    Nothing is ever rebuilt: a new key goes to the nearest cluster, and a full one is halved. What
    clusters are depends only on the keys, not on the pieces in which they came.
    """

    options: ClustersOptions
    search_options = frozenset({"budget", "target_error"})
    index_library = "fotmem_clusters 2"
    _tree: Tree
    _viewer: Viewer | None = None
    """Shows the tree; none when it has changed."""
    _biased: tuple[Viewer, Bias, float, Viewer] | None = None
    """What shows a tree, a bias and its scale, and what shows the tree with the bias."""
    _limited: tuple[IdRanges, int, Viewer] | None = None
    """The rows that a call may see, the end of the tree, and a tree of these rows only."""

    def build_index(self) -> None:
        self._take(self._new_tree())
        for first, keys in self.key_blocks(self.first_row, len(self.stored_keys)):
            self.extend_index(first, keys)

    def _new_tree(self) -> Tree:
        """Return a tree without clusters."""
        rows, steps = (self.stored_keys, self.stored_values), compiled_steps_for(self.stored_keys)
        return Tree(*rows, self.options.capacity, self.first_row, steps or Steps)

    def _take(self, tree: Tree) -> None:
        """Take a tree in place of that there was."""
        self._tree = tree
        self._viewer = self._biased = self._limited = None

    def extend_index(self, first: int, keys: Tensor) -> None:
        self.indexed_rows = first + keys.shape[1]
        while self._tree.end + BATCH <= self.indexed_rows:
            self._viewer = None
            self._tree.insert(self._tree.end, self._tree.end + BATCH)

    def find_candidates(self, queries: Tensor, top_k: int) -> Tensor:
        viewer = self._shown()
        clusters = viewer.clusters(max(SEARCHED, BUDGET_PER_HIT * top_k))
        found = best_rows(viewer, queries.to(self.device), top_k, clusters=clusters)
        waiting = torch.arange(self._tree.end, self.indexed_rows, device=self.device)
        return torch.cat([found, waiting.expand(*found.shape[:2], -1)], 2).cpu()

    def attend_rows(self, queries: Tensor, top_k: int | None, scale: float) -> PartialAttention:
        if top_k is None:
            return self.attend_rows_among(queries, scale, None, None)
        return super().attend_rows(queries, top_k, scale)

    def attend_rows_among(
        self, queries: Tensor, scale: float, bias: Bias | None, rows: IdRanges | None
    ) -> PartialAttention:
        if rows is not None and len(rows) <= FEW:
            return super().attend_rows_among(queries, scale, bias, rows)
        return self.reading(lambda: self._attention(queries, scale, bias, rows))

    def _attention(
        self, queries: Tensor, scale: float, bias: Bias | None, rows: IdRanges | None
    ) -> PartialAttention:
        """Attend to the tree, and to the rows that wait for it."""
        if not self.indexed_rows:
            return super().attend_rows_among(queries, scale, bias, rows)
        queries, (viewer, waiting) = queries.float(), self._shown_of(rows)
        if viewer is None:
            return super().attend_rows_among(queries, scale, bias, waiting)
        viewer, compiled = self._with_bias(viewer, bias, scale), self._compiled
        limits, attend = self._limits(viewer), compiled or attend_to_clusters
        if compiled is not None and waiting is None:
            how = {"scale": scale, "waiting": self._waiting, "bias": bias}
            found = compiled(viewer, queries, limits=limits, **how)
            return PartialAttention(found.out, found.lse)
        found = attend(viewer, queries, limits=limits, scale=scale)
        parts = [PartialAttention(found.out, found.lse)]
        if waiting is None:
            waiting = IdRanges([(self._waiting.start, self._waiting.stop)])
        if waiting:
            parts.append(super().attend_rows_among(queries, scale, bias, waiting))
        return merge(parts)

    @property
    def _waiting(self) -> range:
        """The rows that wait for the tree."""
        return range(max(self._tree.end, self.forgotten_rows), len(self.stored_keys))

    @property
    def _compiled(self) -> Callable[..., Attended] | None:
        """Attention to clusters, compiled; None: it is not to be had."""
        return compiled_for(self._tree.summaries.keys)

    def _shown_of(self, rows: IdRanges | None) -> tuple[Viewer | None, IdRanges | None]:
        """Return what shows some rows of the tree, and those that wait.

        None: no row of the tree, or all that wait.
        """
        tree, end = self._tree, len(self.stored_keys)
        if rows is None and self.forgotten_rows <= tree.first:
            return self._shown(), None
        rows = IdRanges([(self.forgotten_rows, end)]) if rows is None else rows
        clustered, waiting = rows.within(0, tree.end), rows.within(tree.end, end)
        if not clustered:
            return None, waiting
        few = len(clustered) < tree.end - tree.first
        return self._limited_to(clustered) if few else self._shown(), waiting

    def tail_estimate(self, queries: Tensor, *, scale: float) -> TailEstimate:
        queries = self.checked_queries(queries).float()
        return self.reading(lambda: self._tail_estimate(queries, scale))

    def _tail_estimate(self, queries: Tensor, scale: float) -> TailEstimate:
        everything = torch.ones(queries.shape[:2], device=self.device)
        viewer = self._shown_of(None)[0] if self.indexed_rows else None
        if viewer is None:
            return TailEstimate(torch.zeros_like(everything), everything)
        limits = self._limits(viewer)
        attend = self._compiled or attend_to_clusters
        found = attend(viewer, queries, limits=limits, scale=scale, errors=True)
        assert found.error is not None
        assert found.read is not None
        whole = self._attention(queries, scale, None, None)
        norms = [each.norm(dim=2).clamp(min=TINY) for each in (found.out, whole.out)]
        part = (found.lse - whole.lse).exp() * norms[0] / norms[1]
        waiting = len(self.stored_keys) - self._tree.end
        read = (found.read + waiting) / self._remembered
        return TailEstimate(found.error * part, read.clamp(max=1))

    @property
    def _remembered(self) -> int:
        return len(self.stored_keys) - self.forgotten_rows

    def _limits(self, viewer: Viewer) -> Limits:
        """Return how much each query reads."""
        budget, error = self.options.budget, self.options.target_error
        if budget is None and error is None:
            budget, error = max(BUDGET, self._remembered // SHARE), TARGET_ERROR
        everything = len(self.stored_keys)
        return Limits(error or 0.0, viewer.clusters(everything if budget is None else budget))

    def _shown(self) -> Viewer:
        """Return what shows the tree."""
        if self._viewer is None:
            self._viewer = Viewer(self._tree)
        return self._viewer

    def _with_bias(self, viewer: Viewer, bias: Bias | None, scale: float) -> Viewer:
        """Return what shows the same tree with a bias; the last one is kept."""
        if bias is None:
            return viewer
        kept = self._biased
        if kept is None or kept[0] is not viewer or kept[1:3] != (bias, scale):
            self._biased = kept = viewer, bias, scale, Viewer(viewer.tree, bias, scale)
        return kept[3]

    def _limited_to(self, rows: IdRanges) -> Viewer:
        """Return what shows a tree without other rows; the last one is kept."""
        limited = self._limited
        if limited is None or limited[:2] != (rows, self._tree.end):
            tree = self._tree.copy(self.stored_keys, self.stored_values)
            tree.keep_only(rows.contains)
            self._limited = limited = rows, self._tree.end, Viewer(tree)
        return limited[2]

    def index_arrays(self) -> Arrays:
        return saved_tree(self._tree)

    def load_index(self, arrays: Arrays) -> None:
        tree = self._new_tree()
        load_tree(tree, arrays)
        self._take(tree)

    def copy_index(self, twin: Self) -> None:
        twin._take(self._tree.copy(twin.stored_keys, twin.stored_values))

    def index_bytes(self) -> int:
        """Count the clusters, and what is kept for the next calls."""
        every = [self._viewer, *(each[-1] for each in (self._biased, self._limited) if each)]
        viewers = [each for each in every if each is not None]
        trees = {id(each): each for each in (self._tree, *(each.tree for each in viewers))}
        kept = sum(each.ram_bytes + shown_bytes(each) for each in viewers)
        return kept + sum(each.ram_bytes for each in trees.values())
