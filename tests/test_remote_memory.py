"""A memory in object storage: asked from there, counted, and refused by name where it cannot be."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import obstore
import pytest
import torch

import fotmem
from fotmem.directory.compact import compact
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.directory.repair import repair
from fotmem.directory.verify import verify
from fotmem.errors import StorageError
from tests import tiny
from tests.memory_rows import document
from tests.s3_server import Environ, S3Server
from tests.test_saved_memory import STORES, answer, attached
from tests.tiny import LAYERS, one_thread  # noqa: F401 - a fixture

KEYS = "layers/01/00000001/keys"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a memory of two documents."""
    where = tmp_path_factory.mktemp("kept") / "memory"
    with attached(tiny.llama()) as memory:
        memory.read(tiny.ids(1100), document="a.txt")
        memory.read(tiny.ids(31, seed=1), document="b.txt")
        memory.save(where)
        memory.close()
    return where


@pytest.fixture(scope="module")
def url(s3: S3Server, kept: Path) -> str:
    """Where a copy of it lies."""
    return s3.upload(kept)


@pytest.mark.parametrize(
    "store",
    [
        each
        if each in ("exact", "faiss-ivf", "zarr")
        else pytest.param(each, marks=pytest.mark.thorough)
        for each in STORES
    ],
)
def test_any_store_opens_it(url: str, kept: Path, store: str) -> None:
    if not fotmem.available_stores()[store].available:
        pytest.skip(fotmem.available_stores()[store].reason)
    here, there = tiny.llama(), tiny.llama()
    local = fotmem.open_memory(kept, here, store)
    memory = fotmem.open_memory(url, there, store)
    assert torch.equal(memory.tokens, local.tokens)
    assert memory.documents == local.documents
    assert torch.equal(answer(there), answer(here))
    memory.close()
    local.close()


def test_requests_and_bytes_are_counted(s3: S3Server, kept: Path, url: str) -> None:
    s3.asked.clear()
    memory = fotmem.open_memory(url, tiny.llama())
    stats = memory.stats()
    assert stats.requests == len(s3.asked)
    files = [path for path in kept.rglob("*") if path.is_file() and path.name != ".lock"]
    shards = [path for path in files if path.name != "zarr.json"]
    size = sum(path.stat().st_size for path in shards)
    assert 0.9 * size < stats.bytes_read < size + 2 * (kept / "zarr.json").stat().st_size
    assert (
        len(shards) <= stats.requests <= len(shards) + 8
    )  # each once; of other files, the manifest
    memory.close()
    with fotmem.open_memory(kept, tiny.llama()) as local:
        assert local.stats().bytes_read >= stats.bytes_read


@pytest.fixture(autouse=True)
def undisturbed(s3: S3Server) -> Iterator[None]:
    """Let the server answer the next test as it does."""
    yield
    s3.instead = lambda environ: None


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a memory of random keys, so many that it takes an index."""
    where = tmp_path_factory.mktemp("long") / "memory"
    with attached(tiny.llama()) as memory:
        memory.save(where)
        memory.close()
    directory, tokens = MemoryDirectory.open(where, writable=True), 20_480  # whole blocks
    ids, shape = torch.arange(tokens) % 50, (2, tokens, 8)
    drawn = torch.Generator().manual_seed(0)
    pairs = [
        (torch.randn(shape, generator=drawn), torch.randn(shape, generator=drawn)) for _ in LAYERS
    ]
    directory.append(ids, ids, ids, dict(zip(LAYERS, pairs, strict=True)))
    directory.commit([document(0, tokens)])
    directory.close()
    fotmem.open_memory(where, tiny.llama(), "faiss-ivf").close()  # keeps its index
    return where


@pytest.mark.thorough
def test_a_trusted_index_of_clusters_costs_those_that_are_probed(
    s3: S3Server, long: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("zarr")
    here = Path(shutil.copytree(long, tmp_path / "here"))
    options: dict[str, Any] = {"store": "zarr", "ram": "11MiB", "nprobe": 1}
    fotmem.open_memory(here, tiny.llama(), **options).close()  # keeps its clusters
    index = sum(path.stat().st_size for path in here.rglob("indexes/zarr/*"))
    assert index > 20_480 * len(LAYERS) * 2 * 8 * 4  # all keys, and more
    monkeypatch.setattr("fotmem.disk.joined_ranges.GAP", 0)
    mine, theirs = tiny.llama(), tiny.llama()
    local = fotmem.open_memory(here, mine, **options)
    memory = fotmem.open_memory(s3.upload(here, "clusters"), theirs, trusted=True, **options)
    opened = memory.stats()
    assert opened.bytes_read < index / 3
    assert torch.equal(answer(theirs), answer(mine))
    asked = memory.stats()
    assert opened.requests < asked.requests
    assert opened.bytes_read < asked.bytes_read < index / 2
    memory.close()
    local.close()


def refuse(environ: Environ, start_response: Any) -> Any:
    start_response("403 Forbidden", [])
    return [b""]


@pytest.mark.thorough
def test_only_chunks_that_are_needed_are_read(
    s3: S3Server, long: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a kept index that is trusted, those of the rows that are found."""
    pytest.importorskip("faiss")
    url, size = s3.upload(long, "long"), sum(path.stat().st_size for path in long.rglob("c.*"))
    index = sum(path.stat().st_size for path in long.rglob("indexes/*/*"))
    assert index > 1000
    monkeypatch.setattr("fotmem.disk.joined_ranges.GAP", 0)
    here, there = tiny.llama(), tiny.llama()
    local = fotmem.open_memory(long, here, "faiss-ivf")
    memory = fotmem.open_memory(url, there, "faiss-ivf", trusted=True)
    opened = memory.stats()
    assert opened.bytes_read < index + size / 4
    s3.instead = lambda environ: refuse if "values/c." in environ["PATH_INFO"] else None
    with pytest.raises(StorageError, match="it answered 403; give credentials"):
        answer(there)
    s3.instead = lambda environ: None
    assert torch.equal(answer(there), answer(here))
    asked = memory.stats()
    assert 0 < asked.bytes_read - opened.bytes_read < size / 4
    answer(there)
    assert memory.stats().bytes_read == asked.bytes_read  # what was read is kept
    memory.close()
    ids = torch.arange(0, 20_000, 99).expand(2, 1, -1)  # of stores that somebody still has
    for layer in LAYERS:
        assert torch.equal(memory.store(layer).keys(ids), local.store(layer).keys(ids))
    local.close()
    untrusted = fotmem.open_memory(url, there, "faiss-ivf")
    assert untrusted.stats().bytes_read > size / 2  # its index is built anew
    untrusted.close()


@pytest.mark.thorough
@pytest.mark.parametrize("folder", ["tokens", "layers", "verify"])
def test_requests_are_sent_together(s3: S3Server, long: Path, folder: str) -> None:
    """The first ones are answered when ten have arrived."""
    url = s3.upload(long, "long")
    barrier, passed = threading.Barrier(10), threading.Semaphore(10)

    def wait_for_others(environ: Environ) -> None:
        path = environ["PATH_INFO"]
        is_meant = "/c." in path and (folder == "verify" or f"/{folder}/" in path)
        if is_meant and passed.acquire(blocking=False):
            barrier.wait(timeout=20)

    s3.instead = wait_for_others
    if folder == "verify":
        assert verify(url).damages == ()
    else:
        fotmem.open_memory(url, tiny.llama()).close()
    s3.instead = lambda environ: None
    assert not barrier.broken


@pytest.mark.thorough
def test_a_reader_sees_what_is_copied_over_it(s3: S3Server, kept: Path, tmp_path: Path) -> None:
    other = tiny.llama()
    writer = attached(other)
    writer.read(tiny.ids(40))
    writer.save(tmp_path / "memory")
    reader = fotmem.open_memory(s3.upload(tmp_path / "memory", "read"), tiny.llama())
    assert not reader.refresh()
    for count in (10, 5, 2100):
        writer.read(tiny.ids(count, seed=count))
        s3.upload(tmp_path / "memory", "read")
        assert reader.refresh()
        assert torch.equal(reader.tokens, writer.tokens)
        model = reader.attached_model.parts.model
        torch.testing.assert_close(answer(model), answer(other))
    reader.close()
    writer.close()


def test_what_is_not_there_is_refused(s3: S3Server, kept: Path) -> None:
    s3.upload(kept / "tokens", "above/memory")
    for url, reason in (
        (s3.url("nothing"), "is not a memory of fotmem: it has no zarr.json, but nothing"),
        (s3.url("above"), "it has no zarr.json, but memory"),
        ("s3://no-bucket/memory", r"cannot (read|list) .*: .*does not exist \(NoSuchBucket\); is"),
        ("s3://", "cannot be opened: .* is the URL right"),
        ("none://bucket/memory", "expected a URL of s3, gs, az, http, https, got none"),
    ):
        with pytest.raises(StorageError, match=reason) as raised:
            fotmem.open_memory(url, tiny.llama())
        assert url in str(raised.value)
        assert len(str(raised.value)) < 400


def test_wrong_credentials_are_refused(
    s3: S3Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)
    with pytest.raises(
        StorageError, match=r"not exist in our records \(InvalidAccessKeyId\); give"
    ):
        fotmem.open_memory(url, tiny.llama())
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    with pytest.raises(StorageError, match=r"it answered 403; give credentials"):
        fotmem.open_memory(url, tiny.llama())
    monkeypatch.undo()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")  # where nobody answers
    with pytest.raises(StorageError, match=r"no credentials were found; give credentials"):
        fotmem.open_memory(url, tiny.llama())


def test_a_server_that_goes_away_is_named(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = S3Server()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    memory = fotmem.open_memory(server.upload(kept), tiny.llama())
    before = answer(memory.attached_model.parts.model)
    server.stop()
    with pytest.raises(
        StorageError, match=r"cannot read (tokens/)?zarr\.json of s3:.*can the storage be rea"
    ):
        memory.refresh()
    assert torch.equal(answer(memory.attached_model.parts.model), before)
    memory.close()


@pytest.mark.thorough
def test_a_server_that_hangs_is_given_up(
    s3: S3Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_TIMEOUT", "0.2 seconds")
    monkeypatch.setattr("fotmem.disk.objects.RETRIES", {"max_retries": 1})
    released = threading.Event()
    s3.instead = lambda environ: released.wait() and None
    with pytest.raises(StorageError, match="can the storage be reached"):
        fotmem.open_memory(url, tiny.llama())
    released.set()
    s3.instead = lambda environ: None


@pytest.mark.thorough
def test_a_server_that_is_busy_is_asked_again(s3: S3Server, url: str) -> None:
    busy = iter([True] * 3)

    def unavailable(environ: Any, start_response: Any) -> Any:
        start_response("503 Slow Down", [])
        return [b""]

    s3.instead = lambda environ: unavailable if next(busy, False) else None
    memory = fotmem.open_memory(url, tiny.llama())
    s3.instead = lambda environ: None
    assert len(memory) == 1131
    memory.close()


def test_every_damage_of_an_object_is_reported(s3: S3Server, kept: Path) -> None:
    url, store = s3.upload(kept, "damaged"), s3.store("damaged")
    key = next(kept.glob("layers/*/*/keys/c.0.0.0")).relative_to(kept).as_posix()
    right = obstore.get(store, key).bytes().to_bytes()
    other = obstore.get(store, key.replace("keys", "values")).bytes().to_bytes()
    for wrong, problem in (
        (right[:300] + b"\0\0\0\0" + right[304:], "is damaged"),
        (right[:200], "is truncated"),
        (b"", "is truncated"),
        (other, "is in the wrong place"),
        (None, "is missing"),
    ):
        if wrong is None:
            obstore.delete(store, key)
        else:
            obstore.put(store, key, wrong)
        with pytest.raises(StorageError, match=f"chunk .* {problem}.*, in file {key} of {url}"):
            fotmem.open_memory(url, tiny.llama())
        assert key in verify(url).damages[0].problem


def test_what_cannot_be_reached_is_not_damaged(s3: S3Server, kept: Path) -> None:
    """A server that refuses to show some chunks: nothing is dropped for that."""
    url = s3.upload(kept, "refused")
    before = s3.keys("refused")

    s3.instead = lambda environ: refuse if "values/c." in environ["PATH_INFO"] else None
    for call in (verify, repair, compact):
        with pytest.raises(StorageError, match="it answered 403; give credentials"):
            call(url)
    s3.instead = lambda environ: None
    assert s3.keys("refused") == before
    assert verify(url).damages == ()


@pytest.mark.thorough
def test_damaged_descriptions_are_found_by_verify(s3: S3Server, kept: Path) -> None:
    """They are for other programs: the memory can be asked without."""
    url, store = s3.upload(kept, "described"), s3.store("described")
    assert verify(url).damages == ()
    key = next(kept.glob("layers/*/*/keys/zarr.json")).relative_to(kept).as_posix()
    obstore.put(store, key, b"{}")
    memory = fotmem.open_memory(url, tiny.llama())
    memory.close()
    [damage] = verify(url).damages
    assert f"{key} of {url} is damaged" in damage.problem


def test_nothing_is_written_by_readers_or_over_http(s3: S3Server, url: str) -> None:
    s3.asked.clear()
    reader = fotmem.open_memory(url, tiny.llama())
    changes: list[Callable[[], object]] = [
        lambda: reader.remove("a.txt"),
        lambda: reader.read(tiny.ids(3)),
    ]
    for change in changes:
        with pytest.raises(StorageError, match=f"{url} was opened for reading"):
            change()
    reader.close()
    web = url.replace("s3:/", s3.endpoint)
    writes: list[Callable[[], object]] = [
        lambda: attached(tiny.llama()).save(web),
        lambda: fotmem.open_memory(web, tiny.llama(), writable=True),
        lambda: repair(web),
    ]
    for write in writes:
        with pytest.raises(StorageError, match=f"{web} can only be read over HTTP; open it by a"):
            write()
    assert {each.method for each in s3.asked} == {"GET"}


def test_a_memory_is_read_over_http(
    s3: S3Server, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "bucket", f"{s3.bucket}-web")
    anyone = {"x-amz-acl": "public-read"}
    with urlopen(Request(f"{s3.endpoint}/{s3.bucket}", method="PUT", headers=anyone)):
        web = s3.upload(kept, "web").replace("s3:/", s3.endpoint)
    here, there = tiny.llama(), tiny.llama()
    with fotmem.open_memory(kept, here), fotmem.open_memory(web, there):
        assert torch.equal(answer(there), answer(here))
    assert verify(web).damages == ()
    with pytest.raises(StorageError, match=r"it has no zarr\.json, but nothing"):
        fotmem.open_memory(f"{web}/nothing", tiny.llama())


def test_a_url_as_a_path_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    memory = attached(tiny.llama())
    with pytest.raises(StorageError, match=r"s3:/bucket/a was a URL .* pass it as a string"):
        memory.save(Path("s3://bucket/a"))
    assert list(tmp_path.iterdir()) == []


FORKED = """
import os, sys, warnings
from fotmem.directory.compact import compact
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.errors import StorageError
warnings.simplefilter("ignore")  # of Python 3.12, which says that a fork may wait for ever
directory = MemoryDirectory.open(sys.argv[1])
if os.fork() == 0:
    for attempt in (directory.refresh, lambda: MemoryDirectory.open(sys.argv[1])):
        try:
            attempt()
        except StorageError as error:
            print(error, flush=True)
    os._exit(0)
os.wait()
print(directory.refresh())
"""


@pytest.mark.thorough
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_is_refused(url: str) -> None:
    run = [sys.executable, "-c", FORKED, url]
    first, second, last = subprocess.check_output(run, text=True, timeout=300).splitlines()
    assert first == second
    assert first.startswith(f"{url} cannot be reached in a forked process, because its parent")
    assert last == "False"
