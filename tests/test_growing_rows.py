"""Rows that grow, are forgotten and copied, against a list of tensors."""

import copy
import mmap
import os
import pickle
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fotmem.stores import GrowingRows
from fotmem.stores import buffers as rooms
from fotmem.stores import growing_rows as rows
from fotmem.testing.store.naive import DTYPES, draw, quick

HEADS, DIM = 2, 3
PLACES = ("ram", "mmap")


def made(place: str = "ram", dtype: torch.dtype = torch.float32) -> GrowingRows:
    return GrowingRows(HEADS, DIM, dtype=dtype, device=torch.device("cpu"), place=place)  # type: ignore[arg-type]


def held(some: GrowingRows, first: int) -> Tensor:
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
        st.tuples(st.sampled_from(("add", "add", "forget", "copy", "truncate")), st.integers(0, 9)),
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


@pytest.mark.parametrize("place", PLACES)
def test_many_rows_in_a_large_space(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "SMALL", 2**10)
    monkeypatch.setattr(rooms, "SPACE", 2**15)  # is filled, too
    kinds, weights = ("add", "truncate", "copy", "forget"), (12, 2, 0.2, 1)
    for seed in range(5):
        chance = Random(seed)
        steps = [(chance.choices(kinds, weights)[0], chance.randint(0, 40)) for _ in range(150)]
        check(place, steps, torch.float32)


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


@pytest.mark.parametrize("place", PLACES)
def test_many_rows_stay_where_they_are(place: str) -> None:
    some, moves = made(place), []
    for number in range(40):  # to 40 MB
        before = some.since(0)[1].data_ptr()
        some.add(draw(1, 1, 1).expand(HEADS, 2**20 // (4 * HEADS * DIM), DIM) + number)
        if some.since(0)[1].data_ptr() != before:
            moves.append(number)
    assert 16 in moves  # too large for a small room
    assert max(moves) == 16
    assert torch.equal(some.since(0)[1][0, ::43690, 0].diff().round(), torch.ones(39))


def test_room_for_more_takes_no_memory() -> None:
    psutil = pytest.importorskip("psutil")
    some, rows_of = made(), 2**22 // (4 * HEADS * DIM)  # 4 MB
    before = psutil.Process().memory_info().rss
    for _ in range(17):
        some.add(torch.ones(HEADS, rows_of, DIM))
    assert psutil.Process().memory_info().rss - before < 1.5 * 17 * 2**22


@pytest.mark.parametrize("strict", [True, False])
def test_no_address_space_is_reserved_where_it_is_limited(
    strict: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(rooms, "SMALL", 2**10)
    if strict:
        monkeypatch.setattr(Path, "read_text", lambda self: "2\n")
    else:
        monkeypatch.setattr(resource, "getrlimit", lambda which: (2**40, 2**40))
    check("ram", [("add", 40)] * 10, torch.float32)
    some = made()
    some.add(draw(HEADS, 400, DIM))
    assert some.since(0)[1].untyped_storage().nbytes() == 400 * HEADS * DIM * 4


@pytest.mark.parametrize("place", PLACES)
def test_where_there_is_no_space_rows_move(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "SMALL", 2**10)

    monkeypatch.setattr(rooms, "SPACE", 2**20)
    plain = mmap.mmap

    def scarce(file: int, size: int, **options: Any) -> mmap.mmap:
        if size > 2**19:
            raise OSError(12, "Cannot allocate memory")
        return plain(file, size, **options)

    monkeypatch.setattr("mmap.mmap", scarce)
    check(place, [("add", 40)] * 10, torch.float32)


@pytest.mark.parametrize("place", PLACES)
def test_pickled_and_copied_deeply_they_are_the_same(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "SMALL", 2**10)
    some = made(place)
    some.add(draw(HEADS, 90, DIM))
    some.forget(60)
    for twin in (pickle.loads(pickle.dumps(some)), copy.deepcopy(some)):
        assert (len(twin), twin.first, twin.place) == (90, 60, place)
        assert torch.equal(held(twin, 60), held(some, 60))
        twin.add(draw(HEADS, 3, DIM, seed=1))
        assert len(some) == 90
    assert len(pickle.dumps(some)) < 2**14  # not the room for more


def test_a_view_keeps_its_rows_while_rows_move_and_are_forgotten() -> None:
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
    """As the system counts it; nothing of it is on disk for rows in memory."""
    files: list[int] = []
    reserve = os.posix_fallocate

    def noted(descriptor: int, offset: int, size: int) -> None:
        files.append(descriptor)
        reserve(descriptor, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", noted)
    on_disk, in_memory = made("mmap"), made("ram")
    for count in (1, 3000, 2000, 1000):
        for some in (on_disk, in_memory):
            some.add(draw(HEADS, count, DIM))
        blocks = 512 * os.fstat(files[-1]).st_blocks
        assert on_disk.disk_bytes <= blocks <= on_disk.disk_bytes + 4096 * (HEADS + 1)
        needed = len(on_disk) * HEADS * DIM * 4
        assert needed <= on_disk.disk_bytes <= 1.2 * needed
    assert in_memory.disk_bytes == 0
