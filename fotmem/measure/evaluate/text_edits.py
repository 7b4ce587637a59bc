"""Edits of a text that was read once: what a trial hides in it, without reading all of it again."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from fotmem.measure.reading import OVERLAP, overlap_of

if TYPE_CHECKING:
    from fotmem.memory.memory import Memory


class Insertion(NamedTuple):
    """Token ids, and the place in a text where they are inserted."""

    place: int
    tokens: list[int]


class Edit(NamedTuple):
    """Token ids in place of others of a text."""

    replaced: range
    tokens: list[int]


def inserted(text: list[int], insertions: Sequence[Insertion]) -> list[int]:
    """Return a text with what is inserted; of several at one place, the last comes first."""
    text = list(text)
    for place, tokens in sorted(insertions, key=lambda each: -each.place):
        text[place:place] = tokens
    return text


def edited(text: list[int], edits: Sequence[Edit]) -> list[int]:
    """Return a text after all edits, which are in its order and do not overlap."""
    text = list(text)
    for replaced, tokens in reversed(edits):
        text[replaced.start : replaced.stop] = tokens
    return text


def edits_around(
    text: list[int], insertions: Sequence[Insertion], window: int, draw: Random
) -> list[Edit]:
    """Return the edits that insert something, each a window of the text with it.

    A window holds `window` tokens less the overlap of windows, with what is inserted anywhere in
    it. Windows that overlap are one edit.
    """
    spans: list[range] = []
    for place, tokens in sorted(insertions, key=lambda each: each.place):
        room = min(len(text), max(0, window - OVERLAP - len(tokens)))
        start = min(max(0, place - draw.randrange(room + 1)), len(text) - room)
        spans.append(range(start, start + room))
    return [
        Edit(span, inserted(text[span.start : span.stop], _within(insertions, span)))
        for span in _joined(spans)
    ]


def _joined(spans: Sequence[range]) -> list[range]:
    """Join spans that overlap, or stand side by side."""
    joined: list[range] = []
    for span in sorted(spans, key=lambda each: each.start):
        if joined and span.start <= joined[-1].stop:
            joined[-1] = range(joined[-1].start, max(joined[-1].stop, span.stop))
        else:
            joined.append(span)
    return joined


def _within(insertions: Sequence[Insertion], span: range) -> list[Insertion]:
    return [
        Insertion(place - span.start, tokens)
        for place, tokens in insertions
        if span.start <= place <= span.stop
    ]


def put(memory: Memory, edits: Sequence[Edit], *, attend: bool) -> None:
    """Edit the text that was read into memory; edits are in its order and do not overlap.

    As long as windows do not attend to memory while they are read (`attend`), the memory becomes
    the one that reading the edited text would have made, except for where windows begin.
    """
    moved = 0
    for replaced, tokens in edits:
        start, stop = replaced.start + moved, replaced.stop + moved
        memory.replace(start, stop, tokens, overlap=overlap_of(memory), attend=attend)
        moved += len(tokens) - len(replaced)
