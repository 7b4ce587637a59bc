"""What the `zarr` store has on disk: reopened, killed, damaged, shared, zipped, remote."""

import errno
import functools
import gc
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from torch import Tensor

from fotmem import FotmemError, create_store
from fotmem.errors import OptionError, StorageError
from fotmem.testing.store.expectations import expect_attention
from fotmem.testing.store.hits import expect_exact
from fotmem.testing.store.naive import DTYPES, draw, naive_attention
from fotmem_zarr.disk.folder import Folder
from fotmem_zarr.store import ZarrStore

HEADS, DIM, ROWS = 2, 16, 3000
opened = functools.partial(
    create_store, "zarr", num_heads=HEADS, head_dim=DIM, ram=2**20, nprobe=10_000
)


def data(rows: int = ROWS, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return draw(HEADS, rows, DIM, dtype=dtype), draw(HEADS, rows, DIM, seed=1, dtype=dtype)


def fill(directory: Any, rows: int = ROWS, **options: Any) -> None:
    keys, values = data(rows, options.get("dtype", torch.float32))
    with opened(directory=directory, **options) as store:
        for k, v in zip(keys.split(500, 1), values.split(500, 1), strict=True):
            store.add(k, v)


def assert_holds(store: Any, keys: Tensor, values: Tensor, forgotten: int = 0) -> None:
    q = draw(HEADS, 5, DIM, seed=2)
    assert (store.next_id, len(store)) == (keys.shape[1], keys.shape[1] - forgotten)
    keys, values = keys[:, forgotten:], values[:, forgotten:]
    expect_exact(store.search(q, 12), q, keys, 12, first_id=forgotten)
    dense = store.attend(q, top_k=None, scale=0.25)
    expect_attention(dense, naive_attention(q, keys, values, 0.25), torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [0, 1, 100, ROWS])
def test_what_was_flushed_is_there_again(tmp_path: Path, rows: int, dtype: torch.dtype) -> None:
    fill(tmp_path / "a" / "store", rows, dtype=dtype)
    for ram in (2**20, 2**22):
        with opened(directory=tmp_path / "a" / "store", dtype=dtype, ram=ram) as store:
            if rows:
                assert_holds(store, *data(rows, dtype))
            assert len(store) == rows


def test_adding_goes_on_after_reopening(tmp_path: Path) -> None:
    keys, values = data(4000)
    cuts = (0, 7, 40, 41, 900, 2500, 4000)
    for begin, end in itertools.pairwise(cuts):
        with opened(directory=str(tmp_path)) as store:
            store.add(keys[:, begin:end], values[:, begin:end])
            store.flush()
            store.flush()
            assert_holds(store, keys[:, :end], values[:, :end])
    assert len(list((tmp_path / "tail").glob("*/keys"))) <= 1


def test_segments_made_with_several_budgets_are_searched_together(tmp_path: Path) -> None:
    fill(tmp_path)
    first, last = data(), data(6000)
    with opened(directory=tmp_path, ram=2**22) as store:
        for k, v in zip(last[0].split(500, 1), last[1].split(500, 1), strict=True):
            store.add(k, v)
        assert isinstance(store, ZarrStore)
        assert len({segment.shard for segment in store._contents.state.segments}) == 2
        keys, values = (torch.cat(both, 1) for both in zip(first, last, strict=True))
        assert_holds(store, keys, values)


def test_small_flushes_make_few_pieces(tmp_path: Path) -> None:
    keys, values = data(60)
    with opened(directory=tmp_path, ram="16MiB") as store:
        for k, v in zip(keys.split(1, 1), values.split(1, 1), strict=True):
            store.add(k, v)
            store.flush()
    assert len(list((tmp_path / "tail").glob("*/keys"))) <= 6
    with opened(directory=tmp_path) as store:
        assert_holds(store, keys, values)


def test_ids_and_what_is_forgotten_are_remembered(tmp_path: Path) -> None:
    keys, values = data()
    store = opened(directory=tmp_path)
    store.start_at(70)
    for k, v in zip(keys.split(500, 1), values.split(500, 1), strict=True):
        store.add(k, v)
    store.forget(1300)
    store.close()
    with opened(directory=tmp_path) as store:
        assert (store.first_id, store.next_id, len(store)) == (1370, ROWS + 70, ROWS - 1300)
        q = draw(HEADS, 5, DIM, seed=2)
        expect_exact(store.search(q, 12), q, keys[:, 1300:], 12, first_id=1370)


@pytest.mark.parametrize(
    "other, told",
    [({"num_heads": 3}, "H=3"), ({"head_dim": 8}, "D=8"), ({"dtype": torch.float16}, "float16")],
)
def test_another_kind_of_layer_is_refused(tmp_path: Path, other: dict[str, Any], told: str) -> None:
    fill(tmp_path, 10)
    with pytest.raises(OptionError, match=f"H=2 heads of D=16 in float32.*{told}"):
        opened(directory=tmp_path, **other)
    with opened(directory=tmp_path) as store:
        assert_holds(store, *data(10))


def test_a_second_writer_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    first = opened(directory=tmp_path)
    with pytest.raises(StorageError, match="in use by another writer"):
        opened(directory=tmp_path)
    first.close()
    second = opened(directory=tmp_path)
    del second
    opened(directory=tmp_path).close()


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = opened(directory=tmp_path)
    store.add(*data(10))
    store.close()
    store.close()
    for call in (lambda: store.search(draw(HEADS, 1, DIM), 1), lambda: store.add(*data(1))):
        with pytest.raises(StorageError, match="closed; open it again"):
            call()


def test_zarr_reads_the_same(tmp_path: Path) -> None:
    fill(tmp_path)
    keys, values = data()
    root: Any = zarr.open_group(tmp_path, mode="r")
    logged = root.attrs["fotmem"]["logged"]
    for name, expected in (("keys", keys), ("values", values)):
        parts = [np.asarray(root[f"{part}/{name}"]) for part in sorted_groups(tmp_path, "log")]
        assert np.array_equal(np.concatenate(parts, 1)[:, :logged], expected[:, :logged])
    for path in sorted_groups(tmp_path, "segments"):
        sizes, ids, clusters = (np.asarray(root[f"{path}/{n}"]) for n in ("sizes", "ids", "keys"))
        first = {s["name"]: s["first"] for s in root.attrs["fotmem"]["segments"]}[path[9:]]
        for head, cluster in np.ndindex(sizes.shape):
            rows = slice(cluster * 128, cluster * 128 + sizes[head, cluster])
            expected = keys[head, torch.from_numpy(ids[head, rows]) + first]
            assert np.array_equal(clusters[head, rows], expected)


def sorted_groups(directory: Path, kind: str) -> list[str]:
    found = sorted(path.name for path in (directory / kind).iterdir() if path.is_dir())
    assert found
    return [f"{kind}/{name}" for name in found]


KILLED = """
import os, signal, sys, torch
from fotmem import create_store
from fotmem.testing.store.naive import draw
directory, calls = sys.argv[1], int(sys.argv[2])
keys, values = draw(2, 3000, 16), draw(2, 3000, 16, seed=1)
create_store("zarr", num_heads=2, head_dim=16).close()  # imports
written = 0
def count(event, args):
    global written
    if event in ("os.mkdir", "os.rename", "os.remove", "shutil.rmtree") or (
        event == "open" and args[2] & os.O_CREAT
    ):
        written += 1
        if written == calls:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
store = create_store("zarr", num_heads=2, head_dim=16, ram=2**20, directory=directory)
for start in range(0, 3000, 250):
    store.add(keys[:, start:start + 250], values[:, start:start + 250])
    if start % 500:
        store.flush()
        print(start + 250, flush=True)
"""


@pytest.mark.parametrize("calls", [1, 5, 12, 60, 113, 160, 240, 500, 900, 1300, 1650])
def test_killed_at_any_moment_it_reopens_at_its_last_flush(tmp_path: Path, calls: int) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "s"), str(calls)]
    process = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1]
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    flushed = int((process.stdout.split() or ["0"])[-1])
    keys, values = data()
    with opened(directory=tmp_path / "s") as store:
        held = len(store)
        assert held in (flushed, flushed + 500 if flushed else 500)
        store.add(keys[:, held:], values[:, held:])
        assert_holds(store, keys, values)
    with opened(directory=tmp_path / "s") as store:
        assert_holds(store, keys, values)
    assert not list((tmp_path / "s").rglob("*.partial"))


def test_segments_are_made_anew_when_removed(tmp_path: Path) -> None:
    fill(tmp_path)
    for path in (tmp_path / "segments").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with opened(directory=tmp_path) as store:
        assert isinstance(store, ZarrStore)
        assert store.chunks > 0
        assert_holds(store, *data())


def chunk_files(directory: Path, kind: str) -> list[Path]:
    found = [path for path in (directory / kind).rglob("c.*") if path.parent.name == "keys"]
    assert found
    return found


def look_at_all(directory: Path) -> None:
    with opened(directory=directory) as store:
        store.search(draw(HEADS, 1, DIM), 5)
        store.keys(torch.zeros(HEADS, 1, 1, dtype=torch.long))


@pytest.mark.parametrize("kind, cure", [("segments", "remove its folder"), ("log", "from a copy")])
@pytest.mark.parametrize("how", ["damaged", "truncated", "missing"])
def test_a_broken_chunk_is_named_never_a_wrong_answer(
    tmp_path: Path, kind: str, cure: str, how: str
) -> None:
    fill(tmp_path)
    for file in chunk_files(tmp_path, kind):
        if how == "missing":
            file.unlink()
            continue
        content = bytearray(file.read_bytes())
        content[40] ^= 1
        file.write_bytes(content if how == "damaged" else content[:100])
    with pytest.raises(StorageError) as raised:
        look_at_all(tmp_path)
    for part in (how, kind, "chunk 0 of head", str(tmp_path), cure):
        assert part in str(raised.value)


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda text: text[: len(text) // 2], "zarr.json.*is damaged.*from a copy"),
        (lambda text: text.replace('"rows": 10', '"rows": 11'), "is damaged"),
        (lambda text: text.replace('"version": 2', '"version": 3'), "version 3.*upgrade fotmem"),
        (lambda text: text.replace('"version": 2', '"version": 1'), "version 1.*read the text aga"),
        (lambda text: text.replace("fotmem zarr store", "x"), "other zarr data"),
        (lambda text: "[]", "is damaged"),
    ],
)
def test_a_manifest_that_cannot_be_honoured(tmp_path: Path, change: Any, told: str) -> None:
    fill(tmp_path, 10)
    manifest = tmp_path / "zarr.json"
    before = manifest.read_text("utf-8")
    manifest.write_text(change(before), "utf-8")
    with pytest.raises(StorageError, match=told):
        opened(directory=tmp_path)
    manifest.write_text(before, "utf-8")
    with opened(directory=tmp_path) as store:
        assert_holds(store, *data(10))


def test_a_foreign_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear", "utf-8")
    with pytest.raises(StorageError, match=r"letter\.txt; choose an empty directory"):
        opened(directory=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["letter.txt"]
    assert (tmp_path / "letter.txt").read_text("utf-8") == "dear"
    with pytest.raises(StorageError, match="no zip file"):
        opened(directory=tmp_path / "letter.txt")
    with pytest.raises(StorageError, match="no zip file"):
        opened(directory=tmp_path / "new.zip")


@pytest.mark.parametrize("writes", [0, 5, 30, 90])
def test_nothing_is_lost_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    keys, values = data()
    store = opened(directory=tmp_path)
    store.add(keys[:, :400], values[:, :400])
    store.flush()
    plain, room = Folder.write, [writes]

    def write(self: Folder, key: str, content: bytes, *, synced: bool = False) -> None:
        if not room[0]:
            full = OSError(errno.ENOSPC, "No space left on device")
            raise self.broken("write", key, full, "make room") from full
        room[0] -= 1
        plain(self, key, content, synced=synced)

    monkeypatch.setattr(Folder, "write", write)
    with pytest.raises(StorageError, match="No space left on device; make room"):
        store.add(-keys[:, 400:], values[:, 400:])
    assert_holds(store, keys[:, :400], values[:, :400])
    with pytest.raises(StorageError):
        store.add(-keys[:, 400:], values[:, 400:])
    room[0] = 10**6
    store.add(keys[:, 400:], values[:, 400:])
    assert_holds(store, keys, values)
    store.close()
    with opened(directory=tmp_path) as again:
        assert_holds(again, keys, values)


def test_a_flush_has_all_files_on_disk_and_adding_waits_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, values = data()
    plain, synced = os.fsync, list[int]()

    def fsync(handle: int) -> None:
        synced.append(os.fstat(handle).st_ino)
        plain(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    store = opened(directory=tmp_path)
    begun = len(synced)
    for k, v in zip(keys.split(500, 1), values.split(500, 1), strict=True):
        store.add(k, v)
    assert len(synced) == begun
    store.flush()
    written = [path for path in tmp_path.rglob("*") if path.name != ".lock"]
    assert {path.stat().st_ino for path in written if path.is_file()} <= set(synced)
    if os.name == "posix":
        folders = [path for path in written if path.is_dir() and any(path.glob("c.*"))]
        assert {path.stat().st_ino for path in folders} <= set(synced)


def test_what_the_disk_lost_is_never_named_by_a_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, values = data()
    store = opened(directory=tmp_path)
    store.add(keys[:, :400], values[:, :400])
    store.flush()
    store.add(keys[:, 400:], values[:, 400:])

    def fsync(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fsync)
        with pytest.raises(StorageError, match="Input/output error; repair the disk"):
            store.flush()
    with pytest.raises(StorageError, match="Input/output error"):  # though fsync succeeds now
        store.flush()
    assert_holds(store, keys, values)
    del store
    gc.collect()  # errors hold it, too
    with opened(directory=tmp_path) as again:
        assert_holds(again, keys[:, :400], values[:, :400])


def test_a_copy_keeps_the_files_that_its_original_replaced(tmp_path: Path) -> None:
    keys, values = data(6000)
    store = opened(directory=tmp_path)
    for begin in range(0, 2000, 500):
        store.add(keys[:, begin : begin + 500], values[:, begin : begin + 500])
    store.flush()
    twin = store.copy()
    for begin in range(2000, 6000, 500):
        store.add(keys[:, begin : begin + 500], values[:, begin : begin + 500])
    store.forget(1500)
    store.flush()
    assert_holds(twin, keys[:, :2000], values[:, :2000])
    assert_holds(store, keys, values, forgotten=1500)
    before = len(list((tmp_path / "segments").iterdir()))
    del twin
    assert len(list((tmp_path / "segments").iterdir())) < before


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    for name in ("file/store", "a\0b", 300 * "x"):
        with pytest.raises(StorageError, match="choose a folder"):
            opened(directory=tmp_path / name)
    with pytest.raises(StorageError, match="is no zip file"):
        opened(directory=tmp_path / f"{300 * 'x'}.zip")


def test_the_working_directory_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, values = data()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with opened(directory="store") as store:
        store.add(keys[:, :1000], values[:, :1000])
        monkeypatch.chdir(tmp_path / "elsewhere")
        store.add(keys[:, 1000:], values[:, 1000:])
    assert not list((tmp_path / "elsewhere").iterdir())
    with opened(directory=tmp_path / "store") as store:
        assert_holds(store, keys, values)


IN_A_FORK = """
import gc, os, sys
from pathlib import Path
import torch
from fotmem.errors import StorageError
from tests.test_zarr_files import assert_holds, data, opened

torch.set_num_threads(1)

def fork(directory, ending):
    keys, values = data()
    store = opened(directory=directory, ram=2**18)
    for k, v in zip(keys.split(300, 1), values.split(300, 1), strict=True):
        store.add(k, v)
    if (child := os.fork()) == 0:
        assert_holds(store, keys, values)
        for change in (lambda: store.add(keys, values), lambda: store.forget(10)):
            try:
                change()
            except StorageError as error:
                assert "belongs to the process that opened it" in str(error), error
            else:
                os._exit(3)
        twin = store.copy()
        twin.add(keys[:, :9], values[:, :9])
        assert len(twin) == keys.shape[1] + 9
        if ending == "close":
            store.close()
        elif ending == "forget":
            del change, store, twin
            gc.collect()
        sys.exit(0)  # as an ordinary program ends, with all that is done then
    assert os.waitpid(child, 0)[1] == 0, ending
    store.add(keys[:, :1], values[:, :1])
    keys, values = (torch.cat([each, each[:, :1]], 1) for each in (keys, values))
    assert_holds(store, keys, values)
    store.close()
    if directory:
        with opened(directory=directory) as store:
            assert_holds(store, keys, values)

for ending in ("exit", "close", "forget"):
    fork(Path(sys.argv[1]) / ending, ending)
    fork(None, ending)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_processes_leave_the_files_to_their_parent(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_A_FORK, tmp_path],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert not list(tmp_path.glob("fotmem-zarr-*"))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_file_can_be_searched_but_not_added_to(tmp_path: Path, compression: int) -> None:
    fill(tmp_path / "store")
    packed = tmp_path / "store.zip"
    with zipfile.ZipFile(packed, "w", compression) as file:
        for path in (tmp_path / "store").rglob("*"):
            file.write(path, path.relative_to(tmp_path / "store"))
    with opened(directory=packed) as store:
        assert_holds(store, *data())
        with pytest.raises(StorageError, match="zip file, which is read-only; unpack it"):
            store.add(*data(1))
        store.forget(100)
        assert_holds(store, *data(), forgotten=100)
        twin = store.copy()
        twin.add(*data(1))
        assert twin.next_id == ROWS + 1


def test_a_zip_file_of_the_folder_itself_is_told_apart(tmp_path: Path) -> None:
    fill(tmp_path / "store", 10)
    packed = shutil.make_archive(str(tmp_path / "store"), "zip", tmp_path, "store")
    with pytest.raises(StorageError, match="must be at its root"):
        opened(directory=packed)


def test_a_url_reaches_zarr_as_it_is() -> None:
    fill("memory://tests/zarr-store")
    with opened(directory="memory://tests/zarr-store") as store:
        assert_holds(store, *data())
        store.forget(2000)
    with opened(directory="memory://tests/zarr-store") as store:
        assert_holds(store, *data(), forgotten=2000)


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    fill(f"file://{tmp_path}/store", 10)
    with opened(directory=tmp_path / "store") as store:
        assert_holds(store, *data(10))


def test_a_url_without_its_package_names_the_package() -> None:
    with pytest.raises(FotmemError, match=r"(?s)none://bucket"):
        opened(directory="none://bucket/store")


def test_the_manifest_names_no_pickle_and_is_json(tmp_path: Path) -> None:
    fill(tmp_path, 100)
    for path in tmp_path.rglob("zarr.json"):
        json.loads(path.read_text("utf-8"))
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} <= {".json", ".0", ""}
