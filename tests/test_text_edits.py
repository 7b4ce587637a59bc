"""Edits of a text that was read once: windows with what is inserted, and a memory with them."""

from itertools import pairwise
from random import Random

import fotmem
from fotmem.measure.evaluate.text_edits import (
    Edit,
    Insertion,
    edited,
    edits_around,
    inserted,
    put,
)
from fotmem.measure.reading import OVERLAP, remember
from tests import folders
from tests.tiny import one_thread  # noqa: F401 - a fixture

TEXT = list(range(100, 300))


def insertions(draw: Random) -> list[Insertion]:
    places = draw.sample(range(len(TEXT) + 1), draw.randrange(1, 6))
    return [Insertion(place, [n] * draw.randrange(1, 12)) for n, place in enumerate(places)]


def test_insertions() -> None:
    assert inserted([1, 2], [Insertion(0, [7]), Insertion(2, [8, 9])]) == [7, 1, 2, 8, 9]
    assert edited([1, 2, 3], [Edit(range(0, 1), [7, 7]), Edit(range(2, 3), [])]) == [7, 7, 2]


def test_edits_insert_and_change_nothing_else() -> None:
    for seed in range(200):
        draw = Random(seed)
        some, window = insertions(draw), draw.choice([4, 24, 64, 500])
        edits = edits_around(TEXT, some, window, draw)
        assert edited(TEXT, edits) == inserted(TEXT, some)
        spans = [each.replaced for each in edits]
        assert all(one.stop < other.start for one, other in pairwise(spans))
        assert all(set(range(10)) & {*tokens} for _, tokens in edits)


def test_an_edit_is_a_window_with_the_insertion_anywhere_in_it() -> None:
    depths = set()
    for seed in range(200):
        [(replaced, tokens)] = edits_around(TEXT, [Insertion(90, [0] * 4)], 36, Random(seed))
        assert len(tokens) == 36 - OVERLAP == len(replaced) + 4
        depths.add(tokens.index(0))
    assert depths == set(range(17))


def test_edits_of_a_text_in_memory() -> None:
    """Those before move the places of those after."""
    edits = edits_around(TEXT, [Insertion(20, [1, 2]), Insertion(150, [3])], 32, Random(0))
    assert len(edits) == 2
    with fotmem.attach(folders.model(), window=32) as memory:
        remember(memory, TEXT, attend=False)
        put(memory, edits, attend=False)
        assert memory.tokens.tolist() == [*TEXT[:20], 1, 2, *TEXT[20:150], 3, *TEXT[150:]]
