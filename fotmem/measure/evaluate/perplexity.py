"""The perplexity evaluation: the end of a text, with the text before it in memory and without."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fotmem.errors import InputError
from fotmem.measure.evaluate.compare_settings import Reading, SettingComparison, SettingRun
from fotmem.measure.evaluate.report import StoreRow, TaskReport

if TYPE_CHECKING:
    from fotmem.measure.setting import Setting
    from fotmem.memory.memory import Memory

SCORED = 4096
"""Tokens to score."""


@dataclass(frozen=True)
class PerplexityRow(StoreRow):
    """The result with one size of memory, or without memory.

    `tokens` counts the tokens in memory before the scored text begins; 0 without memory.
    """

    memory: bool
    perplexity: float
    difference: float
    """Mean loss per token minus that without memory, in nats: negative where memory helps."""
    difference_interval: tuple[float, float]
    """95% interval over windows."""
    scored: int
    seconds: float
    """With reading, unless settings were compared: their text is read once for all of them."""


class TextPart(NamedTuple):
    """A piece of text whose end is scored."""

    before: list[int]
    windows: list[list[int]]


def measure_perplexity(
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
    """Score the end of a text in windows, each with the text before it in memory.

    The same windows are scored without memory (first row) and with the last 4,096, 16,384, ...
    tokens before them in memory; scored windows are remembered too. With several `places`, the text
    is cut into that many equal parts, and the end of each is scored.

    Raises
    ------
    InputError
        The text is too short for the largest memory.
    """
    parts = _parts(ids, sizes, memory, scored, places)
    return _measured(model, memory, parts, sizes, store, overlap=overlap, attend=attend)


def compare(
    model: Any,
    memory: Memory,
    ids: list[int],
    sizes: list[int],
    settings: Sequence[Setting],
    measured: TaskReport[PerplexityRow],
    *,
    scored: int = SCORED,
    places: int = 1,
    overlap: int,
    attend: bool = False,
) -> Iterator[int]:
    """Score the same windows with several settings of stores; yields as `SettingComparison.run`.

    `measured` receives the row without memory, and for each size and setting a row or its failure.
    Parameters and exceptions as for `measure_perplexity`.
    """
    parts = _parts(ids, sizes, memory, scored, places)

    def asked(windows: list[list[int]]) -> Iterator[Callable[[], Tensor]]:
        for tokens in windows:
            yield partial(_losses, model, tokens)
            memory.read(tokens, overlap=overlap, attend=attend)

    def compared() -> Iterator[int]:
        plain, seconds = _without(model, memory, parts)
        if not measured.has(0, None, {}):
            measured.add(_row(plain, plain, 0, None, seconds))

        for size in sizes:

            def row(run: SettingRun[Tensor], size: int = size) -> PerplexityRow:
                return _row(run.results, plain, size, run.setting.store, run.seconds)

            readings = [
                Reading(
                    partial(_remember, memory, part, size, overlap=overlap, attend=attend),
                    [partial(asked, part.windows)],
                )
                for part in parts
            ]
            missing = measured.missing(size, settings)
            comparison: SettingComparison[Tensor] = SettingComparison(
                memory, missing, attend=attend
            )
            yield from comparison.run(readings, partial(measured.keep, tokens=size, row=row))

    return compared()


def _parts(
    ids: list[int], sizes: list[int], memory: Memory, scored: int, places: int
) -> list[TextPart]:
    """Cut a text into pieces, and the end of each into windows."""
    longest = places * (max(sizes) + scored)
    if len(ids) < longest:
        raise InputError(f"the text has {len(ids):,} tokens, {longest:,} are needed: add text")
    window, parts = memory.options.window, []
    for place in range(places):
        end = len(ids) * (place + 1) // places
        start = end - scored
        windows = [ids[first : min(first + window, end)] for first in range(start, end, window)]
        parts.append(TextPart(ids[:start], windows))
    return parts


def _measured(
    model: Any,
    memory: Memory,
    parts: list[TextPart],
    sizes: list[int],
    store: str,
    *,
    overlap: int,
    attend: bool,
) -> Iterator[PerplexityRow]:
    plain, seconds = _without(model, memory, parts)
    yield _row(plain, plain, 0, None, seconds)
    for size in sizes:
        begin, losses = time.perf_counter(), []
        for part in parts:
            _remember(memory, part, size, overlap=overlap, attend=attend)
            for tokens in part.windows:
                losses.append(_losses(model, tokens))
                memory.read(tokens, overlap=overlap, attend=attend)
        yield _row(losses, plain, size, store, time.perf_counter() - begin)


def _without(model: Any, memory: Memory, parts: list[TextPart]) -> tuple[list[Tensor], float]:
    """Return the losses of all windows without memory, and the seconds that took."""
    memory.clear()
    begin = time.perf_counter()
    losses = [_losses(model, tokens) for part in parts for tokens in part.windows]
    return losses, time.perf_counter() - begin


def _remember(memory: Memory, part: TextPart, size: int, *, overlap: int, attend: bool) -> None:
    memory.clear()
    memory.read(part.before[len(part.before) - size :], overlap=overlap, attend=attend)


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
