"""The `zarr` store and folders, archives and manifests made by somebody who means harm."""

import copy
import errno
import functools
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fotmem.errors import OptionError, StorageError
from fotmem.testing.store.naive import draw, quick
from fotmem_zarr.disk.root import checksum_of
from fotmem_zarr.disk.tree import Tree
from tests.test_zarr_files import DIM, HEADS, ROWS, assert_holds, data, fill, opened

KINDS = ("log", "segments", "tail")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fill a store, in all its parts: log, segments of two levels, tail, forgotten rows."""
    where = tmp_path_factory.mktemp("original") / "store"
    fill(where)
    with opened(directory=where) as store:
        store.forget(300)
    return where


@pytest.fixture
def store(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "store"))


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """Make a folder of somebody else, with files that a store could take for its own."""
    where = tmp_path / "victim"
    for name in ("letter.txt", "00000001/keys/c.0.0.0", "keys/zarr.json", "zarr.json"):
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_text("dear", "utf-8")
    return where


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def used(directory: Any, *, closed: bool = True) -> None:
    """Do everything that can be done with a store."""
    store = opened(directory=directory)
    try:
        look_at(store)
        store.add(*data(600))
        store.forget(700)
        store.flush()
        look_at(store)
    finally:
        if closed:
            store.close()


def look_at(store: Any) -> None:
    assert_holds(store, *data(), forgotten=300) if len(store) == ROWS - 300 else store.search(
        draw(HEADS, 1, DIM), 5
    )


@pytest.mark.parametrize("kind", [*KINDS, "log/*", "segments/*", "tail/*", "log/*/keys", "."])
def test_no_link_is_followed(store: Path, victim: Path, kind: str) -> None:
    before = contents(victim)
    if kind == ".":  # the folder itself may be one
        link = store.with_name("link")
        link.symlink_to(store)
        used(link)
        return
    (found, *_) = sorted(path for path in store.glob(kind) if path.is_dir())
    shutil.rmtree(found)
    found.symlink_to(victim)
    with pytest.raises(StorageError, match="follows no symbolic link"):
        used(store)
    assert contents(victim) == before
    assert found.is_symlink()


@pytest.mark.parametrize("kind", KINDS)
def test_no_link_is_followed_that_comes_while_a_store_is_open(
    store: Path, victim: Path, kind: str
) -> None:
    before = contents(victim)
    open_store = opened(directory=store)
    (store / kind).rename(store.with_name("away"))
    (store / kind).symlink_to(victim)
    with pytest.raises(StorageError):  # noqa: PT012
        open_store.add(*data(2000))
        open_store.forget(4000)
        open_store.flush()
    del open_store
    assert contents(victim) == before


@pytest.mark.parametrize("link", ["zarr.json", "log/zarr.json", ".lock", "log/*/keys/c.*"])
def test_no_link_to_a_file_is_followed(store: Path, victim: Path, link: str) -> None:
    (*_, path) = sorted(store.glob(link))
    target = victim / "copy"
    target.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(target)
    before = contents(victim)
    with pytest.raises(StorageError):
        used(store)
    assert contents(victim) == before


def test_links_among_what_is_left_over_are_removed_themselves(store: Path, victim: Path) -> None:
    before = contents(victim)
    for name in ("log/00009999", "segments/00009998", "tail/00009997"):
        (store / name).symlink_to(victim)
    used(store)
    assert contents(victim) == before
    assert not [path for path in store.rglob("*") if path.is_symlink()]


def test_what_is_no_file_of_a_store_is_left_alone(store: Path) -> None:
    notes = [store / "notes.txt", store / "segments" / "my notes", store / "log" / "x.partial"]
    for note in notes:
        note.write_text("dear", "utf-8")
    used(store)
    assert [note.read_text("utf-8") for note in notes] == ["dear"] * 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("file", ["zarr.json", "log/*/keys/c.*"])
def test_a_pipe_in_place_of_a_file_stops_nobody(store: Path, file: str) -> None:
    (*_, path) = sorted(store.glob(file))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StorageError, match="no regular file"):
        used(store)


def test_links_are_refused_where_there_are_no_handles(
    store: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fotmem_zarr.disk.tree.HANDLES", False)
    assert Tree(store).handle is None
    used(shutil.copytree(store, store.with_name("plain")))
    shutil.rmtree(store / "segments")
    (store / "segments").symlink_to(victim)
    before = contents(victim)
    with pytest.raises(StorageError, match="follows no symbolic link"):
        used(store)
    assert contents(victim) == before


def edited(store: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest, and make its checksum right."""
    path = store / "zarr.json"
    root = json.loads(path.read_text("utf-8"))
    facts = root["attributes"]["fotmem"]
    edit(facts)
    log = json.loads((store / "log/zarr.json").read_text("utf-8"))
    told = {k: v for k, v in facts.items() if k not in ("format", "version", "crc32c")}
    facts["crc32c"] = checksum_of(told, log["attributes"]["fotmem"]["store"])
    path.write_text(json.dumps(root), "utf-8")


def at(path: str) -> Callable[[dict[str, Any]], tuple[Any, Any]]:
    """Find the container and the key of ``a.0.b``."""

    def find(facts: dict[str, Any]) -> tuple[Any, Any]:
        *above, last = (int(part) if part.isdigit() else part for part in path.split("."))
        for part in above:
            facts = facts[part]  # type: ignore[index]
        return facts, last

    return find


def setting(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(facts: dict[str, Any]) -> None:
        container, key = at(path)(facts)
        container[key] = value

    return edit


VALUES: dict[str, tuple[Any, ...]] = {
    "block": (10**6, 0, 1, 64, 24, -16, 2**70, "16", 16.0, True, None),
    "rows": (0, 1, 2999, 3001, 10**12, 2**63, -1),
    "forgotten": (3000, 2999, 3001, 2**62),
    "logged": (0, 16, 2**40),
    "first_id": (-1, 2**63 - 1, 2**62 + 1, "0"),
    "next_name": (0, 3, -1, 2**70),
    "num_heads": (0, 10**9, -2),
    "head_dim": (0, 10**9),
    "dtype": ("float64", "", "../../victim", 7),
    "log": ([], None, {}, 5),
    "pieces": ([], None),
    "segments.0.clusters": (0, 10**12, 1, 7),
    "segments.0.buckets": (0, 10**12, 65, 3),
    "segments.0.rows": (0, 1, 10**12),
    "segments.0.shard": (0, 3, 2**40, 64),
    "segments.0.first": (1, 16, 10**9),
    "segments.0.level": (-1, 10**9),
    "segments.1.level": (16,),
    "pieces.0.rows": (0, 10**12, 1),
    "pieces.0.first": (0, 10**12),
    "log.0.first": (16, 1, 10**12),
    "log.0.name": ("../../victim", "/etc", "", ".", "..", "a/b", "00000001\n", "\u0661" * 8, 1),
    "tail": ([],),
    "segments.1.name": ("../log/00000000", "00000001/../../../victim"),
    "pieces.0.name": ("../victim", "99999999999999999999999999"),
    "log.0.generation": ("", "0" * 16, "g" * 16, None),
    "segments.0.generation": ("0" * 16,),
    "pieces.0.generation": ("0" * 16,),
    "hubs": ([[1], [2], [3]], [[5, 4], [1, 2]], [[1], [10**9]], [[-1], [0]], [[1.5], [2]], 7),
}
EDITS: dict[str, Callable[[dict[str, Any]], None]] = {
    f"{path}={value!r}": setting(path, value) for path, values in VALUES.items() for value in values
}
EDITS |= {
    "log reversed": lambda facts: facts["log"].reverse(),
    "a part twice": lambda facts: facts["log"].append(copy.deepcopy(facts["log"][0])),
    "a part left out": lambda facts: facts["log"].pop(1),
    "segments reversed": lambda facts: facts["segments"].reverse(),
    "the first segment left out": lambda facts: facts["segments"].pop(0),
    "parts exchanged": lambda facts: facts["log"].__setitem__(
        slice(0, 2), [facts["log"][0] | {"name": facts["log"][1]["name"]}, facts["log"][1]]
    ),
    "logged left out": lambda facts: facts.pop("logged"),
    "block left out": lambda facts: facts.pop("block"),
    "something new": setting("unknown", 1),
    "nothing": lambda facts: facts.clear() or facts.update(format="fotmem zarr store", version=2),  # type: ignore[func-returns-value]
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_manifest_that_says_what_cannot_be(store: Path, victim: Path, edit: str) -> None:
    edited(store, EDITS[edit])
    before = contents(store), contents(victim)
    with pytest.raises((StorageError, OptionError)):
        used(store, closed=False)
    now = contents(store), contents(victim)
    now[0].pop(".lock"), before[0].pop(".lock")
    assert now == before


NUMBERS = st.one_of(st.integers(-2, 5000), st.integers(), st.sampled_from([2**31, 2**62, 2**63]))
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


@settings(quick, max_examples=60)
@given(choice=st.data())
def test_any_edit_of_a_manifest_is_refused_or_harmless(
    original: Path, tmp_path_factory: pytest.TempPathFactory, choice: st.DataObject
) -> None:
    store = tmp_path_factory.mktemp("edited") / "store"
    shutil.copytree(original, store)

    def edit(facts: dict[str, Any]) -> None:
        for _ in range(choice.draw(st.integers(1, 3))):
            container: Any = facts
            while True:
                keys = list(container) if isinstance(container, dict) else range(len(container))
                key = choice.draw(st.sampled_from(list(keys)))
                inner = container[key]
                if not isinstance(inner, (dict, list)) or not inner or choice.draw(st.booleans()):
                    break
                container = inner
            what = choice.draw(st.sampled_from(["set", "set", "drop", "twice", "swap"]))
            if what == "drop":
                del container[key]
            elif what == "twice" and isinstance(container, list):
                container.insert(key, copy.deepcopy(container[key]))
            elif what == "swap" and isinstance(container, list):
                other = choice.draw(st.integers(0, len(container) - 1))
                container[key], container[other] = container[other], container[key]
            else:
                number = isinstance(inner, int) and choice.draw(st.booleans())
                container[key] = choice.draw(NUMBERS if number else ANYTHING)
            if not facts:
                return

    edited(store, edit)
    facts = json.loads((store / "zarr.json").read_text("utf-8"))["attributes"]["fotmem"]
    try:
        with opened(directory=store) as found:
            keys, values = data()
            ids = torch.arange(found.first_id, found.next_id).expand(HEADS, 1, -1)
            first = facts["first_id"]
            assert torch.equal(found.keys(ids)[:, 0], keys[:, ids[0, 0] - first])
            assert torch.equal(found.values(ids)[:, 0], values[:, ids[0, 0] - first])
            found.search(draw(HEADS, 2, DIM), 9)
    except (StorageError, OptionError):
        pass
    finally:
        shutil.rmtree(store.parent)


def chunk_files(store: Path) -> list[Path]:
    return sorted(path for path in store.rglob("c.*") if ".partial" not in path.name)


def test_a_right_chunk_in_a_wrong_place_is_damage(tmp_path: Path) -> None:
    store, (keys, values) = tmp_path / "store", data()
    fill(store)
    pairs = [
        pair
        for pair in itertools.combinations(chunk_files(store), 2)
        if pair[0].stat().st_size == pair[1].stat().st_size
    ]
    some = pairs[:: max(1, len(pairs) // 60)]
    assert len(some) >= 40
    for one, other in some:
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second)
        other.write_bytes(first)
        with pytest.raises(StorageError, match=r"is another one's"):
            read_everything(store)
        one.write_bytes(first)
        other.write_bytes(second)
    with opened(directory=store) as again:
        assert_holds(again, keys, values)


def read_everything(directory: Path) -> None:
    keys, values = data()
    ids = torch.arange(ROWS).expand(HEADS, 1, -1)
    store = opened(directory=directory)
    assert torch.equal(store.values(ids)[:, 0], values)
    assert torch.equal(store.keys(ids)[:, 0], keys)
    store.search(draw(HEADS, 40, DIM), 9)


def test_a_file_of_another_store_with_the_same_history_is_damage(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for where in (one, other):
        fill(where)
    for path in chunk_files(one):
        shutil.copy(other / path.relative_to(one), path)
    with pytest.raises(StorageError, match="is another one's"):
        opened(directory=one)
    for path in chunk_files(other):
        shutil.copy(path, one / path.relative_to(other))
    shutil.copy(other / "zarr.json", one / "zarr.json")
    with pytest.raises(StorageError, match="checksum differs"):
        opened(directory=one)


def test_damage_to_what_other_programs_read_is_noticed(store: Path) -> None:
    for path in sorted(store.rglob("zarr.json")):
        before = path.read_bytes()
        for damage in (before[:-9], before.replace(b"3", b"2", 1), b"", b"[" * 100_000, b"null"):
            path.write_bytes(damage)
            with pytest.raises(StorageError, match=r"zarr\.json"):
                opened(directory=store)
        path.write_bytes(before)
    with opened(directory=store) as again:
        look_at(again)


def test_a_huge_manifest_is_not_read(store: Path) -> None:
    with (store / "zarr.json").open("r+b") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(StorageError, match="too large"):
        opened(directory=store)


def zipped(store: Path, packed: Path) -> Path:
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for path in store.rglob("*"):
            file.write(path, path.relative_to(store))
    return packed


def test_members_of_a_zip_file_are_read_where_they_are(store: Path, victim: Path) -> None:
    edited(store, setting("log.0.name", "../../victim"))
    packed = zipped(store, store.with_name("hostile.zip"))
    with zipfile.ZipFile(packed, "a") as file:
        file.writestr("../victim/letter.txt", "evil")
        file.writestr("log/../../victim/zarr.json", "evil")
    before = contents(victim)
    with pytest.raises(StorageError, match=r"log\.0\.name"):
        opened(directory=packed)
    assert contents(victim) == before


def test_a_zip_bomb_is_not_unpacked(store: Path, tmp_path: Path) -> None:
    (store / "zarr.json").unlink()
    packed = zipped(store, tmp_path / "bomb.zip")
    with (
        zipfile.ZipFile(packed, "a", zipfile.ZIP_DEFLATED) as file,
        file.open("zarr.json", "w") as member,
    ):
        for _ in range(2**7):
            member.write(bytes(2**20))
    with pytest.raises(StorageError, match="too large"):
        opened(directory=packed)


def test_damaged_zip_files_are_refused_by_name(store: Path, tmp_path: Path) -> None:
    whole = zipped(store, tmp_path / "store.zip").read_bytes()
    for place in range(0, len(whole), len(whole) // 40):
        damaged = tmp_path / "damaged.zip"
        damaged.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            with opened(directory=damaged) as found:
                assert_holds(found, *data(), forgotten=300)
        except StorageError as error:
            assert "damaged.zip" in str(error)  # noqa: PT017


def test_a_second_writer_is_refused_though_the_lock_file_is_deleted(store: Path) -> None:
    with opened(directory=store) as first:
        (store / ".lock").unlink()
        with pytest.raises(StorageError, match="in use by another writer"):
            opened(directory=store)
        first.add(*data(10))
    opened(directory=store).close()


@pytest.mark.parametrize("how", ["removed", "replaced", "moved"])
def test_a_flush_into_a_folder_that_is_gone_says_so(store: Path, how: str) -> None:
    found = opened(directory=store)
    found.add(*data(2000))
    if how == "moved":
        store.rename(store.with_name("elsewhere"))
    else:
        shutil.rmtree(store)
    if how == "replaced":
        store.mkdir()
    with pytest.raises(StorageError, match=r"was removed or replaced|No such file"):
        found.flush()
    with pytest.raises(StorageError):
        found.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_flush_that_would_name_what_was_removed_says_so(store: Path, kind: str) -> None:
    found = opened(directory=store)
    shutil.rmtree(store / kind)
    found.add(*data(5))
    with pytest.raises(StorageError, match="was removed while the store was open"):
        found.flush()


def test_the_folders_above_a_new_store_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, synced = os.fsync, set[int]()

    def fsync(handle: int) -> None:
        synced.add(os.fstat(handle).st_ino)
        plain(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    fill(tmp_path / "a" / "b" / "store", 10)
    folders = (tmp_path, tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "store")
    assert {folder.stat().st_ino for folder in folders} <= synced


@pytest.mark.parametrize("room", range(4))
def test_what_fails_leaves_no_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    plain, calls = os.replace, itertools.count()

    def replace(*args: Any, **options: Any) -> None:
        if next(calls) >= room:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(*args, **options)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(StorageError, match="No space left"):
        opened(directory=tmp_path / "a" / "b" / "store")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), MemoryError("no more")])
def test_an_interrupted_rename_leaves_nothing(
    store: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    plain, calls = os.replace, itertools.count()

    def replace(*args: Any, **options: Any) -> None:
        if next(calls) % 3 == 2:
            raise error
        plain(*args, **options)

    with opened(directory=store) as found:
        monkeypatch.setattr(os, "replace", replace)
        for _ in range(12):
            try:
                found.add(*data(300))
                found.flush()
            except (StorageError, MemoryError):
                assert not list(store.rglob("*.partial"))
        monkeypatch.undo()
    opened(directory=store).close()


def test_what_a_killed_writer_left_goes_with_the_next_flush(store: Path) -> None:
    (part, *_) = sorted(path for path in (store / "log").iterdir() if path.is_dir())
    (segment, *_) = sorted(path for path in (store / "segments").iterdir() if path.is_dir())
    name = f"c.0.0.0.{'a' * 32}.partial"
    strays = [store / name, store / "log" / name, part / name, part / "keys" / name]
    strays += [segment / "ids" / name, part / "keys" / "c.0.99.0"]
    for stray in strays:
        stray.write_bytes(b"1")
    shutil.copytree(part, store / "log" / "00000990")
    before = contents(store)
    found = opened(directory=store)
    assert before.items() <= contents(store).items()  # opening removes nothing
    found.close()
    assert not [stray for stray in strays if stray.exists()]
    assert not (store / "log" / "00000990").exists()
    with opened(directory=store) as again:
        look_at(again)


def test_an_earlier_manifest_opens_as_it_was_and_destroys_nothing(tmp_path: Path) -> None:
    where, keys, values = tmp_path / "store", *data()
    with opened(directory=where) as store:
        store.add(keys[:, :1600], values[:, :1600])
        store.flush()
        earlier = (where / "zarr.json").read_bytes()
        store.add(keys[:, 1600:], values[:, 1600:])
    newest = (where / "zarr.json").read_bytes()
    (where / "zarr.json").write_bytes(earlier)
    try:
        store = opened(directory=where)
        assert_holds(store, keys[:, :1600], values[:, :1600])
    except StorageError:
        pass
    else:
        del store
    (where / "zarr.json").write_bytes(newest)
    with opened(directory=where) as store:
        assert_holds(store, keys, values)


def test_a_store_whose_writer_was_killed_while_it_began(tmp_path: Path) -> None:
    fill(tmp_path / "whole", 0)
    for kept in ((), ("log",), ("log", "segments"), KINDS):
        begun = tmp_path / f"begun-{len(kept)}"
        begun.mkdir()
        (begun / f"zarr.json.{'0' * 32}.partial").write_bytes(b"{")
        for kind in kept:
            shutil.copytree(tmp_path / "whole" / kind, begun / kind)
        fill(begun)
        with opened(directory=begun) as store:
            assert_holds(store, *data())
        assert not list(begun.rglob("*.partial"))


AS_NOBODY = """
import os, sys
from tests.test_zarr_files import assert_holds, data, opened
from fotmem.errors import StorageError
directory, told = sys.argv[1:]
opened().close()  # imports
os.setuid(65534)
try:
    store = opened(directory=directory)
except StorageError as error:
    assert told != "read" and told in str(error), error
else:
    assert told == "read"
    other = opened(directory=directory)  # any number may read
    assert_holds(store, *data(), forgotten=300)
    assert_holds(other, *data(), forgotten=300)
    try:
        store.add(*data(1))
    except StorageError as error:
        assert "cannot be written to (Permission denied)" in str(error), error
    else:
        raise AssertionError("added to what cannot be written to")
    assert_holds(store, *data(), forgotten=300)
    store.flush()
    store.close()
"""


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="root alone may setuid")
@pytest.mark.parametrize("case", ["read-only", "no lock file", "unreadable log", "unreadable"])
def test_a_folder_of_somebody_else(store: Path, case: str) -> None:
    shutil.copytree(Path(__file__).parents[1], store.parent / "code", ignore=only_code)
    for path in (store, *store.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    for path in store.parents:
        if path.stat().st_uid == 0 and path != Path(path.anchor):
            path.chmod(path.stat().st_mode | 0o055)
    if case == "no lock file":
        (store / ".lock").unlink()
    if case == "unreadable log":
        (store / "log").chmod(0)
    if case == "unreadable":
        store.chmod(0)
    told = "read" if case in ("read-only", "no lock file") else "Permission denied"
    before = contents(store)
    ended = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(store), told],
        cwd=store.parent / "code",
        env=os.environ | {"OMP_NUM_THREADS": "1", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert contents(store) == before


def only_code(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith((".", "__")) and name != "__init__.py"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_full_disk_opens_to_be_read(
    store: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    shutil.rmtree(store / "segments")  # so that opening would have to write

    def write(self: Tree, key: str, content: bytes, *, synced: bool) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as full:
        full.setattr(Tree, "write", write)
        with opened(directory=store) as found:
            assert_holds(found, *data(), forgotten=300)
            with pytest.raises(StorageError, match="cannot be written to"):
                found.add(*data(1))
            found.forget(10)
            found.flush()
    with opened(directory=store) as found:
        look_at(found)
        found.add(*data(1))


def test_too_many_open_files_are_named_as_what_they_are(store: Path) -> None:
    found, other = opened(directory=store), shutil.copytree(store, store.with_name("other"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, hard))
        for call in (
            functools.partial(opened, directory=other),
            functools.partial(found.attend, draw(HEADS, 9, DIM), top_k=None, scale=1.0),
            functools.partial(found.add, *data(900)),
            found.flush,
        ):
            with pytest.raises(StorageError, match=r"Too many open files; .*ulimit"):
                call()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    look_at(found)
    found.flush()
    found.close()
