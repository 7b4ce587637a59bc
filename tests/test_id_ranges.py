"""Sets of ids as ranges, against Python's sets."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fotmem.errors import OptionError
from fotmem.stores import IdRanges
from fotmem.testing.store.naive import quick

MOST = 2**63 - 1
ranges = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 6)).map(lambda each: (each[0], sum(each))),
    max_size=5,
)


def plain(some: IdRanges | list[tuple[int, int]]) -> set[int]:
    return {number for start, stop in some for number in range(start, stop)}


@quick
@given(one=ranges, other=ranges, start=st.integers(0, 40), size=st.integers(0, 10))
def test_operations_are_those_of_sets(
    one: list[tuple[int, int]], other: list[tuple[int, int]], start: int, size: int
) -> None:
    mine, theirs, window = IdRanges(one), IdRanges(other), set(range(start, start + size))
    assert plain(mine) == plain(one)
    assert len(mine) == len(plain(one))
    assert plain(mine.intersection(theirs)) == plain(one) & plain(other)
    assert plain(mine.within(start, start + size)) == plain(one) & window
    assert plain(mine.complement(start, start + size)) == window - plain(one)
    assert mine.contains(torch.arange(-1, 50)).tolist() == [i in plain(one) for i in range(-1, 50)]
    assert mine.at(torch.arange(len(mine))).tolist() == sorted(plain(one))
    below = [len([each for each in plain(one) if each < i]) for i in range(50)]
    assert mine.positions(torch.arange(50)).tolist() == below
    for made in (mine, mine.intersection(theirs), mine.complement(0, 50), mine.within(3, 20)):
        bounds = [bound for each in made for bound in each]
        assert bounds == sorted(set(bounds))  # sorted, not empty, and no two touch


@quick
@given(ranges=ranges)
def test_equal_sets_are_equal_however_they_were_made(ranges: list[tuple[int, int]]) -> None:
    one = IdRanges(ranges)
    other = IdRanges([(i, i + 1) for i in plain(ranges)])
    assert one == other
    assert hash(one) == hash(other)
    assert one != one.complement(0, 50)
    assert one != list(one)
    # What it prints is how it is made.
    assert eval(repr(one)) == one


def test_ids_of_any_shape_and_strides() -> None:
    some = IdRanges([(2, 4), (2**40, MOST)])
    ids = torch.tensor([[1, 2, 3], [4, 2**40, MOST - 1]])
    expected = torch.tensor([[False, True, True], [False, True, True]])
    assert torch.equal(some.contains(ids), expected)
    assert torch.equal(some.contains(ids.T), expected.T)
    assert some.contains(ids[:0]).shape == (0, 3)
    assert some.at(torch.tensor([[0, 2], [1, 3]]).T).tolist() == [[2, 3], [2**40, 2**40 + 1]]
    assert len(IdRanges([(0, MOST)])) == MOST


def test_it_cannot_be_changed() -> None:
    some = IdRanges([(0, 3)])
    with pytest.raises(AttributeError):
        some.ranges = [(0, 4)]  # type: ignore[attr-defined]
    assert {some: 1}[IdRanges([(0, 1), (1, 3)])] == 1
    assert not IdRanges()
    assert list(IdRanges([(5, 5)])) == []


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ((-1, 4), "start of a range of ids must be an integer of at least 0, got -1"),
        ((0, -4), "stop of a range of ids must be an integer of at least 0, got -4"),
        ((5, 3), r"must not stop before it starts, got \(5, 3\); did you mean \(3, 5\)"),
        ((0, 2.5), "stop of a range of ids must be an integer of at least 0, got 2.5"),
        ((True, 4), "start of a range of ids must be an integer"),
        ((0, 2**63), "stop of a range of ids must be at most"),
        ((0, 1, 2), "must be a pair"),
        (range(2), r"must be a pair: .*got range\(0, 2\); such as \(0, 100\)"),
        (7, "must be a pair"),
        ("07", "must be a pair"),
    ],
)
def test_bad_ranges_are_refused(bad: Any, told: str) -> None:
    with pytest.raises(OptionError, match=told):
        IdRanges([(0, 1), bad])


def test_a_bad_window_is_refused() -> None:
    with pytest.raises(OptionError, match="must not stop before it starts"):
        IdRanges().complement(4, 3)
