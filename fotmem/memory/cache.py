"""The cache of one call: the local context of each row, and what overflowed from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from fotmem.arguments import checked_integer
from fotmem.errors import AttachError, LayerError, ShapeError, UnsupportedError

if TYPE_CHECKING:
    from fotmem.memory.contents import Contents
    from fotmem.memory.explain import Trace
    from fotmem.memory.memory import Memory
    from fotmem.stores.store import MemoryStore


class LocalLayer(DynamicLayer):
    """The local keys and values of a layer; a layer without memory drops what overflows."""

    is_croppable = False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def drop(self, columns: int) -> None:
        """Drop the first columns of the local context."""
        assert self.keys is not None
        assert self.values is not None
        self.keys, self.values = self.keys[:, :, columns:], self.values[:, :, columns:]

    def select(self, rows: Tensor) -> None:
        """Let row ``i`` become what row ``rows[i]`` was."""
        assert self.keys is not None
        assert self.values is not None
        rows = rows.to(self.keys.device)
        self.keys, self.values = self.keys[rows], self.values[rows]


class MemoryLayer(LocalLayer):
    """Local keys and values of a memory layer, and one overflow store per row.

    Beside the keys as attention uses them it keeps, per chunk, the keys as a store wants them
    (before rotary embedding): these move when the local context overflows.
    """

    def __init__(self, memory: Memory, layer: int) -> None:
        super().__init__()
        self._memory = memory
        self._layer = layer
        self._unrotated: list[Tensor] = []  # [B, H, t, D] per chunk
        self.queries: Tensor | None = None  # [B, H * G, T, D] of a window that is read
        self.overflow: list[MemoryStore] = []  # one per row; rows of a beam may share one

    def overflown(self, row: int) -> int:
        """Count the tokens that left the local context of a row."""
        return len(self.overflow[row]) if self.overflow else 0

    def remember(self, key: Tensor) -> None:
        """Keep keys ``[B, H, t, D]`` as a store wants them, until they overflow."""
        self._unrotated.append(key.detach())

    def window(self) -> tuple[Tensor, Tensor]:
        """Keys as a store wants them, and values: ``[B, H, n, D]`` each."""
        keys = torch.cat(self._unrotated, 2) if len(self._unrotated) > 1 else self._unrotated[0]
        self._unrotated = [keys]
        assert self.values is not None
        return keys, self.values.detach()

    def move(self, rows: Sequence[int], columns: Tensor) -> None:
        """Move a row's local tokens, where ``columns [B, n]`` is True, to its overflow."""
        keys, values = self.window()
        self.overflow = self.overflow or [self._memory.new_store(self._layer) for _ in keys]
        for row in rows:
            chosen = columns[row].to(keys.device)
            store = self.overflow[row]
            if any(store is other for i, other in enumerate(self.overflow) if i != row):
                store = self.overflow[row] = store.copy()
            store.add(keys[row][:, chosen], values[row][:, chosen])

    def drop(self, columns: int) -> None:
        """Drop the first columns of the local context."""
        keys, _ = self.window()
        self._unrotated = [keys[:, :, columns:]]
        super().drop(columns)

    def select(self, rows: Tensor) -> None:
        """Let row ``i`` become what row ``rows[i]`` was, its overflow included."""
        keys, _ = self.window()
        self._unrotated = [keys[rows.to(keys.device)]]
        super().select(rows)
        if self.overflow:
            self.overflow = [self.overflow[row] for row in rows.tolist()]


class WindowRead(Exception):  # noqa: N818 - no error
    """All that a window adds to memory is there: what comes after it need not be computed."""


class MemoryCache(DynamicCache):
    """What ``model(...).cache`` is while a memory is attached.

    Before transformers 5.24 it was called ``past_key_values``, which still works.

    Rows are kept apart: each has its own local context (a run of columns of one rectangular
    cache, the rest masked) and its own overflow, so that a padded row equals the row alone.

    Parameters
    ----------
    memory : Memory
        The attached memory.
    reading : bool
        Whether nothing but keys and values is wanted; the last memory layer then raises
        `WindowRead` as soon as it has them.

    Attributes
    ----------
    contents : Contents or None
        What the call in progress looks at besides its own sequence.
    """

    def __init__(self, memory: Memory, *, reading: bool = False) -> None:
        super().__init__()
        self._start(memory, reading)

    def _start(self, memory: Memory, reading: bool = False) -> None:
        self.memory = memory
        self.reading = reading
        self.distance = memory.distance
        self.contents: Contents | None = None
        self.layers: list[LocalLayer] = [  # type: ignore[assignment]
            MemoryLayer(memory, layer) if layer in memory.layers else LocalLayer()
            for layer in range(memory.num_layers)
        ]
        self.layer_class_to_replicate = None
        self.trace: Trace | None = None  # what `explain` needs of the last step
        self.seen = 0  # columns of input so far, padding included: what transformers counts
        # Of each local column, [B, n] on CPU: where it stood in the input, and whether it counts.
        self.places = torch.zeros(0, 0, dtype=torch.long)
        self.columns = torch.zeros(0, 0, dtype=torch.bool)

    @classmethod
    def adopt(cls, cache: object, memory: Memory) -> MemoryCache:
        """Make a caller's cache ours.

        ``generate`` and the usual chat loop hand in an empty `DynamicCache` and expect that very
        object to be filled, so it becomes a `MemoryCache` in place.

        Raises
        ------
        UnsupportedError, AttachError
            Another kind of cache, one filled by the plain model, or one of another memory.
        """
        if cache is None:
            return cls(memory)
        if isinstance(cache, MemoryCache):
            if cache.memory is not memory:
                raise AttachError(
                    "this cache belongs to another memory than the attached one; "
                    "start a new sequence, without a cache"
                )
            return cache
        if type(cache) is not DynamicCache or cache.offloading:
            kind = (
                "an offloaded cache"
                if getattr(cache, "offloading", False)
                else type(cache).__name__
            )
            raise UnsupportedError(kind, "pass no cache and leave cache_implementation unset")
        if cache.get_seq_length():
            raise UnsupportedError(
                "a cache filled without memory",
                "start a new sequence, without a cache (prefix tuning fills one: use LoRA)",
            )
        cache.__class__ = cls
        assert isinstance(cache, MemoryCache)
        cache._start(memory)
        return cache

    @property
    def in_call(self) -> bool:
        """Whether a call of the model, or a reading, is under way."""
        return self.reading or self.contents is not None

    def begin(self) -> Contents:
        """Begin a call of the model; return what it looks at, also if others are put in its place.

        At its end `contents` is None again: a cache that is kept does not keep stores.

        Raises
        ------
        AttachError
            If a call that began before has not ended: some layers may have more tokens than others.
        """
        if self.contents is not None:
            raise AttachError(
                "this cache is in use by another call, or by one that failed; "
                "start a new sequence, without a cache"
            )
        self.contents = self.memory.contents
        return self.contents

    def store(self, layer: int, row: int = 0) -> MemoryStore:
        """Return the overflow of one row in one memory layer.

        Parameters
        ----------
        layer : int
            Index of a memory layer.
        row : int
            Batch row.

        Raises
        ------
        LayerError
            If the layer has no memory, or there is no such row.
        OptionError
            If `row` is no integer.
        """
        self.memory.check_layer(layer)
        found = self.layers[layer]
        assert isinstance(found, MemoryLayer)
        row, rows = checked_integer("row", row), max(1, self.columns.shape[0])
        if not 0 <= row < rows:
            raise LayerError(
                f"row {row} is not in this cache, which holds {rows} rows; "
                f"pass one from 0 to {rows - 1}"
            )
        return found.overflow[row] if found.overflow else self.memory.new_store(layer)

    def lengths(self, rows: int) -> list[int]:
        """Count the local tokens of each of `rows` rows, padding not counted."""
        counts: list[int] = self.columns.sum(1).tolist()
        return counts or [0] * rows

    def resume(self, shape: torch.Size, past: Tensor | None) -> None:
        """Check that a call continues these rows, and hide what its mask calls padding by now.

        `generate` fills finished rows up with padding, and only the next turn's mask tells so.

        Parameters
        ----------
        shape : torch.Size
            ``[B, n]``: rows and columns of the call.
        past : Tensor or None
            Bool ``[B, seen]`` on CPU: what still counts of the input so far; None: all of it.

        Raises
        ------
        ShapeError
            If the cache holds another number of rows.
        UnsupportedError
            If a row's padding has overflowed already.
        """
        held = len(self.columns)
        if held and shape[0] != held:
            expected = f"[B={held}, n], as many rows as the cache holds"
            raise ShapeError("the input", expected=expected, actual=shape)
        if not held or past is None:
            return
        columns = self.columns & past.gather(1, self.places)
        layer = self.layers[self.memory.layers[0]]
        assert isinstance(layer, MemoryLayer)
        for row, counted in enumerate(past.sum(1).tolist()):
            if int(columns[row].sum()) + layer.overflown(row) > counted:
                raise UnsupportedError(
                    "an attention_mask that hides tokens which have left the local context",
                    "start a new sequence, without a cache",
                )
        self.columns = columns

    def extend(self, columns: Tensor) -> None:
        """Announce the next chunk ``[B, t]``: columns of the call's input, -1 for padding."""
        places = (columns + self.seen).clamp(min=0)
        if len(self.columns):
            places = torch.cat([self.places, places], 1)
            self.columns = torch.cat([self.columns, columns >= 0], 1)
        else:
            self.columns = columns >= 0
        self.places = places

    def move(self, rows: Sequence[int]) -> None:
        """Move the whole local context of these rows to their overflow."""
        if not rows:
            return
        for layer in self.layers:
            if isinstance(layer, MemoryLayer):
                layer.move(rows, self.columns)
        kept = self.columns.clone()
        kept[list(rows)] = False
        used = kept.any(0).int()
        unused = int(used.argmax()) if used.any() else kept.shape[1]
        for layer in self.layers:
            layer.drop(unused)
        self.columns, self.places = kept[:, unused:], self.places[:, unused:]

    # What transformers asks of a cache ---------------------------------------------------------

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append to a layer's local context and return all of it."""
        if not self.memory.attached:
            raise AttachError(
                "this cache belongs to a memory that was detached; start a new sequence, without it"
            )
        keys, values = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Count the columns of input so far: local, overflown and padding."""
        return self.seen

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Count the columns of the local context, which is what masks are about."""
        return self.layers[layer_idx].get_seq_length()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let row ``i`` go on from what row ``beam_idx[i]`` was."""
        if len(self.columns) == 0:
            return
        for layer in self.layers:
            layer.select(beam_idx)
        rows = beam_idx.cpu()
        self.columns, self.places = self.columns[rows], self.places[rows]

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these rows."""
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        self.reorder_cache(torch.arange(self.columns.shape[0]).repeat_interleave(repeats))

    def reset(self) -> None:
        """Forget everything, overflow included."""
        self._start(self.memory)

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse: what has overflown cannot be taken back."""
        raise UnsupportedError(
            "taking tokens back from the cache (assisted generation, prompt lookup)",
            "generate greedily, by sampling or with beams",
        )

    def activate_past_recording(self) -> None:
        """Refuse, as `crop`."""
        self.crop(0)
