"""The perplexity evaluation: the end of a text, with the text before it in memory and without."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fotmem.errors import InputError
from fotmem.measure.bench.figures import Figure, interval, ratio
from fotmem.measure.evaluate.bare_model import BareLosses, window_losses
from fotmem.measure.evaluate.compare_settings import Reading, SettingComparison, SettingRun
from fotmem.measure.evaluate.intervals import half_interval
from fotmem.measure.evaluate.report import LARGEST, StoreRow, TaskReport
from fotmem.measure.evaluate.scored_text import ScoredText, TextPart
from fotmem.models.predictions import DAMAGED

if TYPE_CHECKING:
    from fotmem.measure.setting import Setting
    from fotmem.memory.memory import Memory

SCORED = 4096
"""Tokens to score."""
BLOCK, SHORT, BLOCKS = 512, 16, 8
"""Tokens of a block, at most and at least, and how many blocks there are unless they get too short:
intervals are over blocks, of which a long window has several."""
LEAST = 2 * SHORT
"""Tokens to score, at least: a single block has no interval."""


@dataclass(frozen=True)
class PerplexityRow(StoreRow):
    """The result with one window and one size of memory, or without memory.

    `tokens` counts the tokens in memory before the scored text begins; 0 without memory.
    """

    memory: bool
    perplexity: float
    difference: float
    """Mean loss per token minus that without memory, in nats: negative where memory helps."""
    difference_interval: tuple[float, float]
    """95% interval (Student) over blocks: windows, or parts of them of at most 512 tokens."""
    scored: int
    seconds: float
    """With reading, unless settings were compared: their text is read once for all of them."""
    window: int | None = None
    """Tokens of local context; None in reports of earlier versions."""
    sliding: bool = False
    """Whether the window slides by half its length, without memory."""
    full_perplexity: float | None = None
    """With attention in all layers to the scored tokens and those in memory, without a memory."""
    full_tokens: int | None = None
    """Tokens of that context; fewer than those of memory and window where they do not fit it."""
    share: Figure | None = None
    """How much of the loss that full attention saves is saved by memory, over blocks.

    Over the blocks for which full attention sees all that memory holds; None without such a
    block, or where full attention saves nothing.
    """
    share_windows: int = 0
    """How many blocks these are."""
    block_losses: list[float] = field(default_factory=list)
    """Mean loss of each block in nats, to compare rows block by block."""


def measure_perplexity(
    model: Any,
    memory: Memory,
    text: ScoredText,
    sizes: Sequence[int],
    *,
    store: str,
    full: Mapping[int, BareLosses] | None = None,
    overlap: int,
    attend: bool = False,
) -> Iterator[PerplexityRow]:
    """Score windows, each with the text before it in memory.

    The same windows are scored without memory (first row) and with the last 4,096, 16,384, ...
    tokens before them in memory; scored windows are remembered too. `full` has what full attention
    to the same tokens loses, by size of memory: see `BareModel.full`.
    """
    window = memory.options.window
    plain, seconds = _without(model, memory, text)
    yield _row(text, window, plain, plain, 0, None, seconds)
    for size in sizes:
        begin, losses = time.perf_counter(), []
        for part in text.parts:
            _remember(memory, part, size, overlap=overlap, attend=attend)
            for tokens in part.windows(window):
                losses.append(window_losses(model, tokens))
                memory.read(tokens, overlap=overlap, attend=attend)
        seconds = time.perf_counter() - begin
        found = text.joined(losses)
        yield _row(text, window, found, plain, size, store, seconds, (full or {}).get(size))


def compare(
    model: Any,
    memory: Memory,
    text: ScoredText,
    sizes: Sequence[int],
    settings: Sequence[Setting],
    measured: TaskReport[PerplexityRow],
    *,
    overlap: int,
    attend: bool = False,
) -> Iterator[int]:
    """Score the same windows with several settings of stores; yields as `SettingComparison.run`.

    `measured` receives the row without memory, and for each size and setting a row or its failure.
    """
    window = memory.options.window

    def asked(windows: list[list[int]]) -> Iterator[Callable[[], Tensor]]:
        for tokens in windows:
            yield partial(window_losses, model, tokens)
            memory.read(tokens, overlap=overlap, attend=attend)

    plain, seconds = _without(model, memory, text)
    if not measured.has(0, None, {}):
        measured.add(_row(text, window, plain, plain, 0, None, seconds))
    for size in sizes:

        def row(run: SettingRun[Tensor], size: int = size) -> PerplexityRow:
            losses = text.joined(run.results)
            return _row(text, window, losses, plain, size, run.setting.store, run.seconds)

        readings = [
            Reading(
                partial(_remember, memory, part, size, overlap=overlap, attend=attend),
                [partial(asked, part.windows(window))],
            )
            for part in text.parts
        ]
        missing = measured.missing(size, settings)
        comparison: SettingComparison[Tensor] = SettingComparison(memory, missing, attend=attend)
        yield from comparison.run(readings, partial(measured.keep, tokens=size, row=row))


def sliding_row(text: ScoredText, window: int, found: BareLosses) -> PerplexityRow:
    """Return the row of a window that slides by half its length, without memory."""
    row = _row(text, window, found.losses, found.losses, 0, None, found.seconds)
    return replace(row, sliding=True)


def _without(model: Any, memory: Memory, text: ScoredText) -> tuple[Tensor, float]:
    """Return the losses of all windows without memory, and the seconds that took."""
    memory.clear()
    begin = time.perf_counter()
    windows = [each for part in text.parts for each in part.windows(memory.options.window)]
    losses = text.joined([window_losses(model, tokens) for tokens in windows])
    return losses, time.perf_counter() - begin


def _remember(memory: Memory, part: TextPart, size: int, *, overlap: int, attend: bool) -> None:
    memory.clear()
    memory.read(part.before[len(part.before) - size :], overlap=overlap, attend=attend)


def _row(
    text: ScoredText,
    window: int,
    losses: Tensor,
    plain: Tensor,
    size: int,
    store: str | None,
    seconds: float,
    full: BareLosses | None = None,
) -> PerplexityRow:
    block = min(window, BLOCK, max(SHORT, text.counted.numel() // BLOCKS))
    change = text.mean(losses - plain)
    changes = text.window_means(losses - plain, block)
    seen = text.windows_within(0 if full is None else full.whole, block)
    share = None if full is None else _share(text, block, losses, plain, full.losses, seen)
    spread = half_interval(changes.tolist())
    return PerplexityRow(
        tokens=size,
        memory=store is not None,
        store=store,
        perplexity=_perplexity(text.mean(losses)),
        difference=change,
        difference_interval=(change - spread, change + spread),
        block_losses=text.window_means(losses, block).tolist(),
        scored=int(text.counted.sum()),
        seconds=seconds,
        window=window,
        full_perplexity=None if full is None else _perplexity(text.mean(full.losses)),
        full_tokens=None if full is None else full.seen,
        share=share,
        share_windows=0 if share is None else int(seen.sum()),
    )


def _perplexity(loss: float) -> float:
    """Return the exponential of a mean loss, as far as a report can hold it."""
    if loss > math.log(LARGEST):
        raise InputError(f"the model's mean loss is {loss:,.0f} nats: {DAMAGED}")
    return math.exp(loss)


def _share(
    text: ScoredText, block: int, losses: Tensor, plain: Tensor, full: Tensor, seen: Tensor
) -> Figure | None:
    """Return how much of what full attention saves in the blocks `seen` is saved.

    None where it saves nothing.
    """
    saved, most = (text.window_sums(plain - each, block)[seen] for each in (losses, full))
    return interval(ratio, saved, most) if most.sum() > 0 else None
