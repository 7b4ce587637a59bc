"""A memory that is written in object storage: the first commit counts, and nothing is lost."""

import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import obstore
import pytest
import torch

import fotmem
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.directory.repair import repair
from fotmem.directory.verify import verify
from fotmem.errors import StorageError
from fotmem.stores import indexed_store
from tests import tiny
from tests.memory_rows import FACTS, SHAPES, assert_holds, document, draw
from tests.s3_server import Environ, S3Server
from tests.test_saved_memory import answer, attached
from tests.test_threads import together
from tests.tiny import one_thread  # noqa: F401 - a fixture

ANOTHER = "another writer has committed to s3://.* since it was opened here"
NAMES = count()


@pytest.fixture
def url(s3: S3Server) -> Iterator[str]:
    """A new place."""
    yield s3.url(f"place-{next(NAMES)}")
    s3.instead = lambda environ: None


def grow(directory: MemoryDirectory, rows: int) -> None:
    directory.append(*draw(len(directory), rows))


def commit(directory: MemoryDirectory, rows: int) -> None:
    """Add rows, so that there are so many, and commit them."""
    grow(directory, rows)
    directory.commit([document(0, rows, is_complete=False)])


def is_manifest(environ: Environ) -> bool:
    names: list[str] = environ["PATH_INFO"].split("/")[3:]
    return bool(environ["REQUEST_METHOD"] == "PUT" and names == ["zarr.json"])


def expect(url: str, rows: int) -> None:
    """Expect these rows, undamaged."""
    assert verify(url).damages == ()
    directory = MemoryDirectory.open(url)
    assert_holds(directory, rows)
    directory.close()


def test_a_memory_is_written_and_read_there(url: str, tmp_path: Path) -> None:
    here, there = tiny.llama(), tiny.llama()
    for model, where in ((here, str(tmp_path / "memory")), (there, url)):
        memory = attached(model)
        memory.read(tiny.ids(50), document="a")
        memory.save(where)
        memory.read(tiny.ids(40, seed=1), document="b")
        memory.remove("a")
        memory.close()
        again = fotmem.open_memory(where, model, append_only=True)
        again.read(tiny.ids(30, seed=2), document="c")
        again.close()
        fotmem.open_memory(where, model)
    assert torch.equal(answer(there), answer(here))
    assert repair(url).damages == ()
    with pytest.raises(StorageError, match="holds a memory already"):
        attached(tiny.llama()).save(url)


def test_the_second_of_two_writers_is_refused(s3: S3Server, url: str) -> None:
    MemoryDirectory.create(url, SHAPES, FACTS).close()
    first, second = (MemoryDirectory.open(url, writable=True) for _ in range(2))
    assert not first.refresh()
    reader = MemoryDirectory.open(url)
    grow(second, 1500)
    commit(first, 1100)
    for change in (lambda: second.commit([document(0, 1500)]), second.refresh) * 2:
        with pytest.raises(StorageError, match=ANOTHER):
            change()
    assert reader.refresh()
    assert_holds(reader, 1100)
    commit(first, 2100)
    assert not first.refresh()
    expect(url, 2100)
    second.close()
    third = MemoryDirectory.open(url, writable=True)
    commit(third, 2200)
    expect(url, 2200)


def test_of_several_at_the_same_time_one_commits(url: str) -> None:
    MemoryDirectory.create(url, SHAPES, FACTS).close()
    writers = [MemoryDirectory.open(url, writable=True) for _ in range(4)]
    committed = []

    def attempt(number: int) -> None:
        with suppress(StorageError):
            commit(writers[number], 10 + number)
            committed.append(number)

    together([partial(attempt, number) for number in range(4)])
    [number] = committed
    expect(url, 10 + number)


def indexes(s3: S3Server, url: str) -> list[str]:
    """List the indexes at a place."""
    keys = s3.keys(url.rpartition("/")[2])
    return sorted(key for key in keys if key.startswith("indexes/"))


def test_a_writer_keeps_the_indexes_of_its_stores(
    s3: S3Server, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Readers and writers that others have overtaken do not; no commit depends on an index."""
    pytest.importorskip("faiss")
    monkeypatch.setattr(indexed_store, "EXACT_BELOW", 64)
    with attached(tiny.llama()) as memory:
        memory.read(tiny.ids(100))
        memory.save(url)
        memory.close()
    fotmem.open_memory(url, tiny.llama(), "faiss-ivf").close()
    assert indexes(s3, url) == []
    s3.instead = lambda environ: refuse if "indexes" in environ["PATH_INFO"] else None
    first = fotmem.open_memory(url, tiny.llama(), "faiss-ivf", writable=True)
    assert "is not kept: cannot write indexes/faiss-ivf/" in caplog.text
    s3.instead = lambda environ: None
    second = fotmem.open_memory(url, tiny.llama(), writable=True)
    first.read(tiny.ids(50, seed=1))  # is committed
    first.close()
    kept = [f"indexes/faiss-ivf/{layer:02d}" for layer in tiny.LAYERS]
    assert indexes(s3, url) == kept
    second.use("faiss-hnsw")
    second.close()
    assert indexes(s3, url) == kept
    caplog.clear()
    caplog.set_level("INFO", "fotmem")
    model = tiny.llama()
    third = fotmem.open_memory(url, model, "faiss-ivf", trusted=True)
    assert caplog.text.count("was loaded") == len(tiny.LAYERS)
    assert len(third) == 150


@pytest.mark.thorough
@pytest.mark.parametrize("rows", [0, 30])
def test_two_that_begin_at_the_same_time(s3: S3Server, url: str, rows: int) -> None:
    """One begins, and commits these rows, while another one is about to write its manifest."""
    others: list[Any] = []

    def begin_another(environ: Environ) -> None:
        if is_manifest(environ) and not others:
            others.append(None)
            others[0] = MemoryDirectory.create(url, SHAPES, FACTS)
            if rows:
                commit(others[0], rows)

    s3.instead = begin_another
    with nullcontext() if not rows else pytest.raises(StorageError, match=ANOTHER):
        MemoryDirectory.create(url, SHAPES, FACTS).close()
    commit(others[0], 60)
    expect(url, 60)


@pytest.mark.thorough
def test_what_another_writer_has_not_committed_yet_stays(s3: S3Server, url: str) -> None:
    """It writes groups while the one before it removes what killed writers left."""
    MemoryDirectory.create(url, SHAPES, FACTS).close()
    directory, others = MemoryDirectory.open(url, writable=True), list[Any]()

    def write_more(environ: Environ) -> None:
        if "list-type" in environ["QUERY_STRING"] and not others:
            others.append(None)
            others[0] = MemoryDirectory.open(url, writable=True)
            grow(others[0], 50)
            flush(others[0])

    s3.instead = write_more
    commit(directory, 30)
    others[0].commit([document(0, 50)])
    expect(url, 50)


def flush(directory: MemoryDirectory) -> None:
    """Write what a commit would name."""
    for log in directory._rows.logs():
        log.flush()


@pytest.mark.thorough
def test_a_memory_is_begun_where_a_killed_process_began_one(s3: S3Server, url: str) -> None:
    s3.instead = lambda environ: refuse if is_manifest(environ) else None
    with pytest.raises(StorageError, match=r"cannot write zarr\.json of .*\(AccessDenied\); give"):
        MemoryDirectory.create(url, SHAPES, FACTS)
    s3.instead = lambda environ: None
    directory = MemoryDirectory.create(url, SHAPES, FACTS)
    commit(directory, 30)
    expect(url, 30)


def refuse(environ: Environ, start_response: Any) -> Any:
    start_response("403 Forbidden", [])
    return [b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"]


@pytest.mark.thorough
@pytest.mark.parametrize("lost", [1, 100])
def test_an_answer_that_is_lost(s3: S3Server, url: str, lost: int) -> None:
    """The manifest is written, but the writer is not told: at once, or at all."""
    directory = MemoryDirectory.create(url, SHAPES, FACTS)
    left = [lost]

    def answer_badly(environ: Environ, start_response: Any) -> Any:
        list(s3.app(environ, lambda *_: None))
        start_response("500 Internal Server Error", [])
        return [b""]

    def losing(environ: Environ) -> Any:
        if is_manifest(environ) and left[0]:
            left[0] -= 1
            return answer_badly
        return None

    s3.instead = losing
    with suppress(StorageError) if lost == 1 else pytest.raises(StorageError, match="500"):
        commit(directory, 50)
    left[0] = 0
    commit(directory, 70)
    expect(url, 70)


def test_a_server_that_ignores_conditions_is_refused(s3: S3Server, url: str) -> None:
    folder = url.rpartition("/")[2]
    MemoryDirectory.create(url, SHAPES, FACTS).close()
    directory = MemoryDirectory.open(url, writable=True)

    def ignore(environ: Environ) -> None:
        environ.pop("HTTP_IF_MATCH", None)
        environ.pop("HTTP_IF_NONE_MATCH", None)

    s3.instead = ignore
    with pytest.raises(StorageError, match="cannot be written to safely: its server ignores"):
        commit(directory, 10)
    expect(url, 0)
    with pytest.raises(StorageError, match="cannot be written to safely"):
        MemoryDirectory.create(f"{url}-new", SHAPES, FACTS)
    assert "zarr.json" not in s3.keys(f"{folder}-new")


@pytest.mark.thorough
def test_what_killed_writers_left_is_removed(s3: S3Server, url: str) -> None:
    """By the second writer after them: the first one cannot know that they were killed."""
    MemoryDirectory.create(url, SHAPES, FACTS).close()
    for rows in (20, 30):
        killed = MemoryDirectory.open(url, writable=True)
        grow(killed, rows)
        flush(killed)
        for log in killed._rows.logs():
            for group in log.groups():
                group.keep()  # as a killed process does
    for rows in (40, 50):
        directory = MemoryDirectory.open(url, writable=True)
        commit(directory, rows)
        directory.close()
    expect(url, 50)
    assert s3.keys(url.rpartition("/")[2]) == MemoryDirectory.open(url).files() | {".lock"}


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.thorough) for n in range(1, 6))]
)
def test_any_order_of_writers(url: str, seed: int) -> None:
    """The first commit after a writer's opening counts, all others are refused."""
    draws = random.Random(seed)
    MemoryDirectory.create(url, SHAPES, FACTS).close()
    rows, version = 0, 0
    writers: dict[int, tuple[MemoryDirectory, int]] = {}
    for _ in range(12 if seed == 0 else 60):
        which = draws.randrange(3)
        if which not in writers or draws.random() < 0.3:  # the one before is gone, as if killed
            writers[which] = MemoryDirectory.open(url, writable=True), version
            continue
        writer, known = writers[which]
        size = len(writer) + draws.choice([1, 7, 300, 1100])
        with nullcontext() if known == version else pytest.raises(StorageError, match=ANOTHER):
            commit(writer, size)
            rows, version = size, version + 1
            writers[which] = writer, version
    expect(url, rows)


@pytest.mark.thorough
def test_a_reader_beside_a_writer(url: str) -> None:
    """It sees one commit after the other, each whole, though pieces are replaced meanwhile."""
    writer, reader = MemoryDirectory.create(url, SHAPES, FACTS), MemoryDirectory.open(url)
    sizes = list(range(0, 2400, 60))

    def write() -> None:
        for rows in sizes:
            commit(writer, rows)

    with ThreadPoolExecutor(1) as threads:
        writing, seen = threads.submit(write), 0
        while not writing.done():
            reader.refresh()
            assert seen <= len(reader) <= sizes[-1]
            seen = len(reader)
            assert_holds(reader, seen)
        writing.result()
    reader.refresh()
    assert_holds(reader, sizes[-1])


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["flipped", "cut", "removed"])
def test_every_damage_is_reported(s3: S3Server, url: str, how: str) -> None:
    """Of every object: by verify, and by a reader that does not hold what was written."""
    commit(MemoryDirectory.create(url, SHAPES, FACTS), 1100)
    folder, draws = url.rpartition("/")[2], random.Random(0)
    store = s3.store(folder)
    for key in sorted(s3.keys(folder) - {".lock"}):
        right = obstore.get(store, key).bytes().to_bytes()
        at = draws.randrange(len(right))
        if how == "removed":
            obstore.delete(store, key)
        else:
            flipped = right[:at] + bytes([right[at] ^ 1 << draws.randrange(8)]) + right[at + 1 :]
            obstore.put(store, key, flipped if how == "flipped" else right[:at])
        assert is_damaged(url), (key, at)
        obstore.put(store, key, right)
    expect(url, 1100)


def is_damaged(url: str) -> bool:
    try:
        return bool(verify(url).damages)
    except StorageError:
        return True


@pytest.mark.thorough
def test_files_are_written_together(s3: S3Server, url: str) -> None:
    """The first ones are answered when ten have arrived; those that fail are written again."""
    directory = MemoryDirectory.create(url, SHAPES, FACTS)
    barrier, passed, failed = threading.Barrier(10), threading.Semaphore(10), threading.Event()

    def wait_for_others(environ: Environ) -> Any:
        if environ["REQUEST_METHOD"] != "PUT" or not passed.acquire(blocking=False):
            return None
        if barrier.wait(timeout=20) == 3:
            failed.set()
            return refuse
        return None

    s3.instead = wait_for_others
    with pytest.raises(StorageError, match="AccessDenied"):
        commit(directory, 4500)
    assert failed.is_set()
    assert MemoryDirectory.open(url).manifest.rows == 0
    directory.commit([document(0, 4500)])
    expect(url, 4500)


WRITER = """
import sys
from fotmem.directory.memory_directory import MemoryDirectory
from tests.test_remote_writing import commit
directory = MemoryDirectory.open(sys.argv[1], writable=True)
while True:
    commit(directory, len(directory) + 300)
    print(len(directory), flush=True)
"""


@pytest.mark.thorough
def test_a_killed_writer_leaves_its_last_commit(url: str) -> None:
    MemoryDirectory.create(url, SHAPES, FACTS).close()
    draws, rows = random.Random(0), 0
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE)
        assert child.stdout is not None
        for _ in range(draws.randrange(1, 6)):
            rows = int(child.stdout.readline())
        time.sleep(draws.random() / 20)
        child.kill()
        told = [int(line) for line in child.communicate()[0].split()]
        rows = max([rows, *told])
        directory = MemoryDirectory.open(url)
        assert len(directory) in (rows, rows + 300)  # committed, but not told
        rows = len(directory)
        expect(url, rows)
