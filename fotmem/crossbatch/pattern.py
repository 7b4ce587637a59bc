"""Which keys a batch row attends to in crossbatch: its own window, other windows, the bank."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fotmem.errors import OptionError


@dataclass(frozen=True)
class AttentionPattern:
    """Which windows each batch row attends to besides its own, and what is padding."""

    contexts: Sequence[Sequence[int]]
    """Per row: indices of the windows it attends to in full."""
    scale: float
    """Factor of the inner products, usually ``1 / sqrt(D)``."""
    recent: Sequence[int | None] | None = None
    """Per row: index of the window that it attends to as text directly before it, beside these."""
    padding_mask: Tensor | None = None
    """Bool ``[B, T]``: False is padding of a row's own window."""
    window_mask: Tensor | None = None
    """Bool ``[B, 1, T, T]``: False is hidden in a row's own window, as by a sliding window."""
    context_padding_mask: Tensor | None = None
    """Bool ``[W, S]``: False is padding of a window that others attend to."""
    context_weights: Tensor | None = None
    """``[B, W]``: factor of the weight that each key of a window has for each row; default 1."""
    bank_weight: float = 1.0
    """Factor of the weight of each key of the bank."""


def documents(rows: int, d: int) -> list[list[int]]:
    """List, per row, the documents whose previous windows it attends to.

    Raises
    ------
    OptionError
        `d` is not from 0 to `rows`.
    """
    if not 0 <= d <= rows:
        raise OptionError(f"d must be from 0 to the {rows} documents of the batch, got {d}")
    return [[(row + step) % rows for step in range(d)] for row in range(rows)]


class CrossbatchInputs(NamedTuple):
    """The tensors that get gradients."""

    query: Tensor
    memory_query: Tensor
    key: Tensor
    value: Tensor
    context_keys: Tensor
    context_values: Tensor
    recent_keys: Tensor | None  # [W, H, S, D]
    bank_keys: Tensor | None  # [1, H, N, D]
    bank_values: Tensor | None


class ContextPart(NamedTuple):
    """Keys and values that some rows attend to."""

    rows: Tensor  # [R], of the query
    asked: str  # the input that has the queries
    keys: Tensor  # [R, H, n, D]
    values: Tensor
    mask: Tensor | None  # bool, broadcastable to [R, 1, T, n]
    origin: tuple[str, str]  # the inputs they come from
    windows: Tensor  # [R], of the origin
    log_weights: Tensor  # [R], of each key


def context_parts(inputs: CrossbatchInputs, pattern: AttentionPattern) -> Iterator[ContextPart]:
    """Yield the parts: a row's own window, the one before it, others one at a time, the bank."""
    rows, tokens, device = inputs.query.shape[0], inputs.query.shape[2], inputs.query.device
    everyone = torch.arange(rows, device=device)
    alike = torch.zeros(rows, dtype=wide_dtype(inputs.query), device=device)
    mask = torch.ones(tokens, tokens, dtype=torch.bool, device=device).tril()[None, None]
    if pattern.padding_mask is not None:
        mask = mask & pattern.padding_mask[:, None, None]
    if pattern.window_mask is not None:
        mask = mask & pattern.window_mask
    own = ("key", "value")
    yield ContextPart(everyone, "query", inputs.key, inputs.value, mask, own, everyone, alike)
    padding = pattern.context_padding_mask
    before = dict(enumerate(pattern.recent or ()))
    looking = [row for row, window in before.items() if window is not None]
    if looking and inputs.recent_keys is not None:
        windows = torch.tensor([before[row] for row in looking], device=device)
        yield ContextPart(
            everyone[looking],
            "query",
            inputs.recent_keys[windows],
            inputs.context_values[windows],
            None if padding is None else padding[windows][:, None, None],
            ("recent_keys", "context_values"),
            windows,
            alike[looking],
        )
    for place in range(max(map(len, pattern.contexts), default=0)):
        looking = [row for row in range(rows) if len(pattern.contexts[row]) > place]
        windows = torch.tensor([pattern.contexts[row][place] for row in looking], device=device)
        weights = pattern.context_weights
        yield ContextPart(
            everyone[looking],
            "memory_query",
            inputs.context_keys[windows],
            inputs.context_values[windows],
            None if padding is None else padding[windows][:, None, None],
            ("context_keys", "context_values"),
            windows,
            alike[looking] + (0 if weights is None else weights[looking, windows].to(alike).log()),
        )
    if inputs.bank_keys is not None and inputs.bank_values is not None:
        keys, values = (
            bank.expand(rows, -1, -1, -1) for bank in (inputs.bank_keys, inputs.bank_values)
        )
        yield ContextPart(
            everyone,
            "memory_query",
            keys,
            values,
            None,
            ("bank_keys", "bank_values"),
            torch.zeros_like(everyone),
            alike + math.log(pattern.bank_weight),
        )


def wide_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype to compute in: at least float32."""
    return torch.promote_types(tensor.dtype, torch.float32)


def folded(tensor: Tensor, part: ContextPart) -> Tensor:
    """Choose rows of ``[B, H * G, T, n]`` and fold grouped queries: ``[R, H, G * T, n]``."""
    rows, heads = part.keys.shape[:2]
    return tensor[part.rows].reshape(rows, heads, -1, tensor.shape[-1])


def folded_mask(query: Tensor, part: ContextPart) -> Tensor | None:
    """Fold a part's mask as its queries: ``[R, 1, G * T, n]``."""
    if part.mask is None:
        return None
    rows, heads = part.keys.shape[:2]
    groups = query.shape[1] // heads
    return part.mask.expand(rows, 1, query.shape[2], -1).repeat(1, 1, groups, 1)
