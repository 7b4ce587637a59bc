"""The cache of one call: the local context of each batch row, and what overflowed from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from fotmem.arguments import checked_integer
from fotmem.errors import AttachError, LayerError, ShapeError, UnsupportedError
from fotmem.memory.attached import AttachedModel
from fotmem.memory.choice import views_of_rows
from fotmem.memory.columns import LocalColumns
from fotmem.memory.local_context import LocalLayer, MemoryLayer
from fotmem.memory.options import MemoryOptions
from fotmem.memory.trace import Trace
from fotmem.memory.view import MemoryView
from fotmem.stores.store import MemoryStore


class StopForward(Exception):  # noqa: N818 - no error
    """Ends a call of the model early, when its wanted results have been computed."""


class MemoryCache(DynamicCache):
    """The cache that a model returns while a memory is attached, ``model(...).cache``.

    Before transformers 5.24 the attribute was called ``past_key_values``, which still works.

    Batch rows are kept apart: each has its own local context (a run of columns of one rectangular
    cache, the rest masked) and its own overflow, so that a padded row equals the row alone.

    Parameters
    ----------
    attached : AttachedModel
    reading : bool
        Whether only keys, values and queries are wanted; the last memory layer then raises
        `StopForward` as soon as it has them.

    Attributes
    ----------
    views : list of tuple of MemoryView, or None
        The memories that each row of the call in progress attends to; None between calls.
    """

    def __init__(self, attached: AttachedModel, *, reading: bool = False) -> None:
        super().__init__()
        self._start(attached, reading)

    def _start(self, attached: AttachedModel, reading: bool = False) -> None:
        self.attached = attached
        self.reading = reading
        self.views: list[tuple[MemoryView, ...]] | None = None
        self._options = attached.options
        self.layers: list[LocalLayer] = [  # type: ignore[assignment]
            MemoryLayer(attached, layer) if layer in attached.layers else LocalLayer()
            for layer in range(len(attached.parts.attentions))
        ]
        self.layer_class_to_replicate = None
        self.trace: Trace | None = None  # what `explain` needs of the last step
        self.seen = 0  # columns of input so far, padding included: what transformers counts
        self.columns = LocalColumns()

    @classmethod
    def adopt(cls, cache: object, attached: AttachedModel) -> MemoryCache:
        """Make a caller's cache ours.

        ``generate`` and the usual chat loop pass an empty `DynamicCache` and expect that very
        object to be filled, so it becomes a `MemoryCache` in place.

        Raises
        ------
        UnsupportedError, AttachError
            It is another kind of cache, filled by the plain model, or of another memory.
        """
        if cache is None:
            return cls(attached)
        if not isinstance(cache, MemoryCache):
            _check_empty(cache)
            cache.__class__ = cls
            assert isinstance(cache, MemoryCache)
            cache._start(attached)
        elif cache.attached is not attached:
            raise AttachError(
                "this cache belongs to another memory than the attached one; "
                "start a new sequence, without a cache"
            )
        return cache

    @property
    def in_call(self) -> bool:
        """Whether a call of the model, or a reading, is under way."""
        return self.reading or self.views is not None

    def begin(self, rows: int) -> list[tuple[MemoryView, ...]]:
        """Begin a call of the model; return the memories that each row looks at until its end.

        At its end `views` is None again: a cache that is kept does not keep stores.

        Raises
        ------
        AttachError
            An earlier call has not ended: some layers may have more tokens than others. Or a memory
            that `using` chose was detached.
        OptionError
            `using` chose memories for another number of rows.
        """
        if self.views is not None:
            raise AttachError(
                "this cache is in use by another call, or by one that failed; "
                "start a new sequence, without a cache"
            )
        self.views, self._options = views_of_rows(self.attached, rows), self.attached.options
        self.attached.overflow.watch(self)
        return self.views

    def looked_at(self) -> list[tuple[MemoryView, ...]]:
        """Return the memories of each row as the step in progress looks at them.

        What has overflowed takes the places of their recent tokens.
        """
        views = self.views or []
        recent = [self.options(row).recent for row in range(len(views))]
        if not any(recent) or not self.columns.rows:
            return views
        moved = self.memory_layer(self.attached.layers[0]).overflow_length
        left = [max(0, number - moved(row)) for row, number in enumerate(recent)]
        now = {
            (id(view), number): view if view.recent == number else replace(view, recent=number)
            for some, number in zip(views, left, strict=True)
            for view in some
        }
        pairs = zip(views, left, strict=True)
        return [tuple(now[id(view), number] for view in some) for some, number in pairs]

    def options(self, row: int) -> MemoryOptions:
        """Return how a batch row looks at what it remembers: as its first memory says.

        As it said when the call began: other threads may change it meanwhile.
        """
        views = self.views[row] if self.views else ()
        return views[0].options if views else self._options

    def memory_layer(self, layer: int) -> MemoryLayer:
        """Return the local context and the overflow of a memory layer."""
        local = self.layers[layer]
        assert isinstance(local, MemoryLayer)
        return local

    def store(self, layer: int, row: int = 0) -> MemoryStore:
        """Return the overflow of one batch row in one memory layer.

        Parameters
        ----------
        layer : int
            Index of a memory layer.
        row : int
            Batch row.

        Raises
        ------
        LayerError
            The layer has no memory, or there is no such row.
        OptionError
            `row` is not an integer.
        """
        self.attached.check_layer(layer)
        overflow = self.memory_layer(layer).overflow
        row, rows = checked_integer("row", row), max(1, self.columns.rows)
        if not 0 <= row < rows:
            raise LayerError(
                f"row {row} is not in this cache, which holds {rows} rows; "
                f"pass one from 0 to {rows - 1}"
            )
        return overflow[row] if overflow else self.attached.new_store(layer)

    def overflow(self, layer: int) -> list[MemoryStore]:
        """List the overflow of all rows in a memory layer; rows of a beam may share one store."""
        return list({id(each): each for each in self.memory_layer(layer).overflow}.values())

    def resume(self, shape: torch.Size, past: Tensor | None) -> None:
        """Check that a call continues these rows, and hide what its mask calls padding by now.

        `generate` pads finished rows, and only the mask of the next turn shows it.

        Parameters
        ----------
        shape : torch.Size
            ``[B, n]``: rows and columns of the call.
        past : Tensor or None
            Bool ``[B, seen]`` on CPU: which input columns still count; None: all of them.

        Raises
        ------
        ShapeError
            The cache holds another number of rows.
        UnsupportedError
            Padding of a row has overflowed already.
        """
        held = self.columns.rows
        if held and shape[0] != held:
            expected = f"[B={held}, n], as many rows as the cache holds"
            raise ShapeError("the input", expected=expected, actual=shape)
        if not held or past is None:
            return
        real = self.columns.still_real(past)
        layer = self.memory_layer(self.attached.layers[0])
        for row, counted in enumerate(past.sum(1).tolist()):
            if int(real[row].sum()) + layer.overflow_length(row) > counted:
                raise UnsupportedError(
                    "an attention_mask that hides tokens which have left the local context",
                    "start a new sequence, without a cache",
                )
        self.columns.real = real

    def move(self, rows: Sequence[int]) -> None:
        """Move the whole local context of these batch rows to their overflow."""
        if not rows:
            return
        for layer in self.layers:
            if isinstance(layer, MemoryLayer):
                layer.move(rows, self.columns.real)
        unused = self.columns.drop(list(rows))
        for layer in self.layers:
            layer.drop(unused)

    # The interface of a cache of transformers --------------------------------------------------

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append to a layer's local context and return all of it."""
        if not self.attached.is_attached:
            raise AttachError(
                "this cache belongs to a memory that was detached; start a new sequence, without it"
            )
        keys, values = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Count the columns of input so far: local, overflown and padding."""
        return self.seen

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Count the columns of the local context, which masks cover."""
        return self.layers[layer_idx].get_seq_length()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let batch row ``i`` go on from what batch row ``beam_idx[i]`` was."""
        if self.columns.rows == 0:
            return
        for layer in self.layers:
            layer.select(beam_idx)
        self.columns.select(beam_idx.cpu())

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these batch rows."""
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every batch row."""
        self.reorder_cache(torch.arange(self.columns.rows).repeat_interleave(repeats))

    def reset(self) -> None:
        """Forget everything, overflow included."""
        self._start(self.attached)

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse: what has overflown cannot be taken back."""
        raise UnsupportedError(
            "taking tokens back from the cache (assisted generation, prompt lookup)",
            "generate greedily, by sampling or with beams",
        )

    def activate_past_recording(self, **kwargs: Any) -> None:
        """Refuse, as `crop`."""
        self.crop(0)


def _check_empty(cache: Any) -> None:
    """Refuse a caller's cache unless it is a plain and empty one."""
    if type(cache) is not DynamicCache or cache.offloading:
        offloading = getattr(cache, "offloading", False)
        kind = "an offloaded cache" if offloading else type(cache).__name__
        raise UnsupportedError(kind, "pass no cache and leave cache_implementation unset")
    if cache.get_seq_length():
        raise UnsupportedError(
            "a cache filled without memory",
            "start a new sequence, without a cache (prefix tuning fills one: use LoRA)",
        )
