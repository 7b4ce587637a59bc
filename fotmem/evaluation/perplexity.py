"""Perplexity of a text, with memory of what stands before it and without."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fotmem.errors import InputError

if TYPE_CHECKING:
    from fotmem.memory import Memory

SCORED = 4096
"""Tokens whose perplexity is measured."""


@dataclass(frozen=True)
class PerplexityRow:
    """What was measured, with or without memory."""

    tokens: int
    """Remembered before the scored text begins; 0 without memory."""
    memory: bool
    store: str | None
    perplexity: float
    difference: float
    """Mean loss per token minus that without memory, in nats: negative where memory helps."""
    difference_interval: tuple[float, float]
    """At 95%, over windows."""
    scored: int
    seconds: float


def perplexity(
    model: Any,
    memory: Memory,
    ids: list[int],
    sizes: list[int],
    *,
    store: str,
    scored: int = SCORED,
    places: int = 1,
    overlap: int,
    attend: bool = False,
) -> Iterator[PerplexityRow]:
    """Score the end of a text in windows, each with what stands before it in memory.

    The same windows are scored without memory (first row) and with the last 4,096, 16,384, ...
    tokens before them in memory; a window that was scored is remembered, too. With several
    `places`, the text is cut into so many equal parts, and the end of each is scored.

    Raises
    ------
    InputError
        If the text is too short for the largest memory.
    """
    longest = places * (max(sizes) + scored)
    if len(ids) < longest:
        raise InputError(f"the text has {len(ids):,} tokens, {longest:,} are needed: add text")
    ends = [len(ids) * (place + 1) // places for place in range(places)]
    starts = [end - scored for end in ends]
    parts = [(ids[:start], ids[start:end]) for start, end in zip(starts, ends, strict=True)]
    return _measured(model, memory, parts, sizes, store, overlap=overlap, attend=attend)


def _measured(
    model: Any,
    memory: Memory,
    parts: list[tuple[list[int], list[int]]],
    sizes: list[int],
    store: str,
    *,
    overlap: int,
    attend: bool,
) -> Iterator[PerplexityRow]:
    window = memory.windowing.window
    cut = [
        (before, [end[start : start + window] for start in range(0, len(end), window)])
        for before, end in parts
    ]
    memory.clear()
    begin = time.perf_counter()
    plain = [_losses(model, tokens) for _, windows in cut for tokens in windows]
    yield _row(plain, plain, 0, None, time.perf_counter() - begin)
    for size in sizes:
        begin, losses = time.perf_counter(), []
        for before, windows in cut:
            memory.clear()
            memory.read(before[len(before) - size :], overlap=overlap, attend=attend)
            for tokens in windows:
                losses.append(_losses(model, tokens))
                memory.read(tokens, overlap=overlap, attend=attend)
        yield _row(losses, plain, size, store, time.perf_counter() - begin)


def _losses(model: Any, tokens: list[int]) -> Tensor:
    """Return the loss of every token but the first, in nats."""
    ids = torch.tensor([tokens], device=model.device)
    with torch.no_grad():
        logits = model(ids).logits[0, :-1].float()
    return cross_entropy(logits, ids[0, 1:], reduction="none").cpu()


def _row(
    losses: list[Tensor], plain: list[Tensor], size: int, store: str | None, seconds: float
) -> PerplexityRow:
    every = torch.cat(losses)
    changes = torch.stack([one.mean() - two.mean() for one, two in zip(losses, plain, strict=True)])
    change = float(every.mean() - torch.cat(plain).mean())
    spread = 1.96 * float(changes.std()) / math.sqrt(len(changes)) if len(changes) > 1 else 0.0
    return PerplexityRow(
        tokens=size,
        memory=store is not None,
        store=store,
        perplexity=math.exp(float(every.mean())),
        difference=change,
        difference_interval=(change - spread, change + spread),
        scored=len(every),
        seconds=seconds,
    )
