"""Rows that grow, are forgotten and copied, against a list of tensors."""

import os
import tempfile
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fotmem import Rows, rows
from fotmem.testing.store.naive import DTYPES, draw, quick

HEADS, DIM = 2, 3
PLACES = ("ram", "mmap")


def made(place: str = "ram", dtype: torch.dtype = torch.float32) -> Rows:
    return Rows(HEADS, DIM, dtype=dtype, device=torch.device("cpu"), place=place)  # type: ignore[arg-type]


def held(some: Rows, first: int) -> Tensor:
    """Read all rows from `first` on in both ways that there are."""
    ids = torch.arange(first, len(some)).expand(HEADS, 1, -1)
    looked_up = some.take(ids)[:, 0]
    blocks = list(some.blocks(first, len(some), 5))
    assert [start for start, _ in blocks] == sorted({start for start, _ in blocks})
    assert all(block.shape[1] <= 5 for _, block in blocks)
    streamed = torch.cat([torch.empty(HEADS, 0, DIM, dtype=some.dtype), *(b for _, b in blocks)], 1)
    assert torch.equal(looked_up, streamed)
    return looked_up


@pytest.mark.parametrize("place", PLACES)
@quick
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(("add", "add", "forget", "copy", "truncate", "put")), st.integers(0, 9)
        ),
        max_size=20,
    ),
    dtype=st.sampled_from(DTYPES),
)
def test_any_order_of_changes_equals_a_list(
    place: str, steps: list[tuple[str, int]], dtype: torch.dtype
) -> None:
    before = rows.SMALLEST
    rows.SMALLEST = 2  # moves often
    try:
        check(place, steps, dtype)
    finally:
        rows.SMALLEST = before


def test_changes_while_rows_move_are_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "AHEAD", 3)  # from a third of the room on
    kinds, weights = ("add", "put", "truncate", "copy", "forget"), (12, 2, 2, 0.2, 6)
    for seed in range(10):
        chance = Random(seed)
        steps = [(chance.choices(kinds, weights)[0], chance.randint(0, 9)) for _ in range(300)]
        check("ram", steps, torch.float32)


def check(place: str, steps: list[tuple[str, int]], dtype: torch.dtype) -> None:
    pairs = [(made(place, dtype), torch.empty(HEADS, 0, DIM, dtype=dtype), 0)]
    for number, (step, count) in enumerate(steps):
        some, expected, first = pairs.pop(0)
        if step == "add":
            new = draw(HEADS, count, DIM, seed=number, dtype=dtype)
            some.add(new)
            expected = torch.cat([expected, new], 1)
            new.fill_(torch.nan)
        elif step == "forget":
            first = min(first + count, len(some))
            some.forget(first)
            assert some.first <= first
        elif step == "truncate":
            end = max(first, len(some) - count)
            some.truncate(end)
            expected = expected[:, :end]
        elif step == "put":
            start = max(first, len(some) - count)
            new = draw(HEADS, min(2, len(some) - start), DIM, seed=number, dtype=dtype)
            some.put(start, new)
            expected = expected.clone()
            expected[:, start : start + new.shape[1]] = new
        else:
            pairs.append((some.copy(), expected, first))
        pairs.append((some, expected, first))
        for each, whole, start in pairs:
            assert len(each) == whole.shape[1]
            assert torch.equal(held(each, start), whole[:, start:])


def test_rows_seldom_move_and_lie_side_by_side() -> None:
    some, places = made(), set()
    for number in range(64):
        some.add(draw(HEADS, rows.SMALLEST, DIM, seed=number))
        first, every = some.since(0)
        assert (first, every.shape[1]) == (0, len(some))
        places.add(every.data_ptr())
    assert len(places) <= 8  # there is room for twice as many each time


def test_nearly_all_have_moved_by_the_time_there_is_no_room_left() -> None:
    some, left = made(), []
    for number in range(600):
        place, size, moved = some.since(0)[1].data_ptr(), len(some), some._moved
        some.add(draw(HEADS, 7, DIM, seed=number))
        if size and some.since(0)[1].data_ptr() != place:
            left.append(size - moved)
    assert len(left) >= 3
    assert max(left) <= 3 * 7 * rows.AHEAD


def test_what_moved_leaves_its_old_place_at_once() -> None:
    some = made("mmap")
    for number in range(4 * rows.SMALLEST // 16):
        some.add(draw(HEADS, 16, DIM, seed=number))
    room = HEADS * 8 * rows.SMALLEST * DIM * 4
    assert len(some) == 4 * rows.SMALLEST  # as many as there was room for
    assert some.disk_bytes == room


def test_who_looks_keeps_what_was_there_while_rows_move_and_are_forgotten() -> None:
    some = made()
    some.add(draw(HEADS, rows.SMALLEST, DIM))
    _, seen = some.since(0)
    before = seen.clone()
    some.add(draw(HEADS, 5 * rows.SMALLEST, DIM, seed=1))
    some.forget(5 * rows.SMALLEST)
    some.add(draw(HEADS, rows.SMALLEST, DIM, seed=2))
    assert torch.equal(seen, before)
    assert some.since(0)[0] == some.first == 5 * rows.SMALLEST


def test_forgotten_rows_are_freed() -> None:
    some = made()
    for number in range(64):
        some.add(draw(HEADS, rows.SMALLEST, DIM, seed=number))
        some.forget(max(0, len(some) - 2 * rows.SMALLEST))
        assert len(some) - some.first <= 6 * rows.SMALLEST
        room = some.since(0)[1].untyped_storage().nbytes() // (HEADS * DIM * 4)
        assert room <= 12 * rows.SMALLEST


@pytest.mark.parametrize("fails", [True, False])
def test_files_have_no_name_and_a_full_disk_adds_nothing(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    some = made("mmap")
    some.add(draw(HEADS, 5, DIM))
    assert list(tmp_path.iterdir()) == []
    if fails:

        def full(descriptor: int, offset: int, length: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
        with pytest.raises(OSError, match=r"no room .* TMPDIR"):
            some.add(draw(HEADS, 2 * rows.SMALLEST, DIM, seed=1))
        assert len(some) == 5
        assert list(tmp_path.iterdir()) == []
        monkeypatch.undo()
    some.add(draw(HEADS, 2 * rows.SMALLEST, DIM, seed=1))
    both = torch.cat([draw(HEADS, 5, DIM), draw(HEADS, 2 * rows.SMALLEST, DIM, seed=1)], 1)
    assert torch.equal(held(some, 0), both)


def test_what_is_on_disk_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the system was asked to reserve it; nothing of it is on disk for rows in memory."""
    reserved: list[int] = []
    reserve = os.posix_fallocate

    def noted(descriptor: int, offset: int, size: int) -> None:
        reserved.append(size)
        reserve(descriptor, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", noted)
    on_disk, in_memory = made("mmap"), made("ram")
    for count in (1, 300, 200, 100):
        for some in (on_disk, in_memory):
            some.add(draw(HEADS, count, DIM))
        assert on_disk.disk_bytes in (reserved[-1], sum(reserved[-2:]))  # while it moves: both
        assert on_disk.disk_bytes >= len(on_disk) * HEADS * DIM * 4
    assert in_memory.disk_bytes == 0
