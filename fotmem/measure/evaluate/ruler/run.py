"""Asks a model, and compares what it reaches with memory and with the evidence in its window."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from fotmem.measure.evaluate.ruler.sample import Sample
from fotmem.measure.evaluate.ruler.tasks import NEEDLES
from fotmem.measure.evaluate.window_share import WindowShare, window_share
from fotmem.measure.reading import remember
from fotmem.tasks.answer import answer_question

if TYPE_CHECKING:
    from fotmem.memory.memory import Memory


@dataclass(frozen=True, kw_only=True)
class RulerRow(WindowShare):
    """The mean scores of one task with one length, or of all needle tasks."""

    task: str


class BareScores(NamedTuple):
    """The scores of samples without a memory."""

    without_memory: list[float]
    in_window: list[float]


def ask_bare(model: Any, tokenizer: Any, samples: Sequence[Sample]) -> Iterator[BareScores]:
    """Ask a model without a memory; each result covers the samples so far."""
    scores = BareScores([], [])
    for sample in samples:
        scores.without_memory.append(ask(model, tokenizer, sample))
        scores.in_window.append(ask(model, tokenizer, sample, sample.evidence))
        yield scores


def ask_with_memory(
    model: Any, tokenizer: Any, samples: Sequence[Sample], memory: Memory, *, attend: bool = False
) -> Iterator[list[float]]:
    """Read sample after sample into an empty memory and ask; as `ask_bare`.

    `attend` says whether windows attend to memory while they are read.
    """
    scores: list[float] = []
    for sample in samples:
        memory.clear()
        remember(memory, sample.read, attend=attend)
        scores.append(ask(model, tokenizer, sample))
        yield scores


def ask(model: Any, tokenizer: Any, sample: Sample, before: Sequence[int] = ()) -> float:
    """Return the score of a sample. Generation ends where the score cannot rise any more."""
    given = answer_question(
        model,
        tokenizer,
        [*before, *sample.local, *sample.question],
        max_new_tokens=sample.new_tokens,
        until=sample.is_complete,
    )
    return sample.score(given.text)


def make_row(
    task: str, tokens: int, store: str, bare: BareScores, scores: list[float], begin: float
) -> RulerRow:
    """Combine the scores of a task; `begin` is the time when asking with memory began."""
    means = [sum(some) / len(some) for some in (bare.without_memory, scores, bare.in_window)]
    return _row(task, tokens, store, means, len(scores), time.perf_counter() - begin)


def mean_of_needles(rows: Sequence[RulerRow]) -> list[RulerRow]:
    """Return the mean over all needle tasks of one length; nothing if one of them is missing."""
    some = [row for row in rows if row.task in NEEDLES]
    if len(some) < len(NEEDLES):
        return []
    names = ("without_memory", "with_memory", "in_window")
    means = [sum(getattr(row, name) for row in some) / len(some) for name in names]
    trials, seconds = (sum(getattr(row, name) for row in some) for name in ("trials", "seconds"))
    return [_row("needles", some[0].tokens, some[0].store, means, trials, seconds)]


def _row(
    task: str, tokens: int, store: str, means: Sequence[float], trials: int, seconds: float
) -> RulerRow:
    return RulerRow(
        task=task,
        tokens=tokens,
        store=store,
        **window_share(*means, trials=trials),
        seconds=seconds,
    )
