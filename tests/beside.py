"""Readers beside a writer: what they answer is right for the commit that they show."""

import functools
import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

import fotmem
from fotmem.directory.compact import compact
from tests import tiny
from tests.tiny import LAYERS, WINDOW

NAMES, VERSIONS = "abcde", 3
Shown = tuple[str, ...]
"""Checksums of the documents that a memory shows, in the order of reading."""


def run(path: Path, changes: int, *, readers: int = 1, threads: int = 2, seed: int = 0) -> int:
    """Let a process make changes, and processes and threads ask; return the number of answers.

    Raises
    ------
    AssertionError
        An answer is not that of the commit that its reader showed.
    """
    empty = attached()
    empty.save(path)
    empty.close()  # so that the process may write
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(readers + 1)]
    work: list[tuple[Callable[..., None], tuple[Any, ...]]] = [
        (write, (path, changes, seed)),
        *[(read, (path,))] * readers,
    ]
    processes = [
        context.Process(target=each, args=(theirs, *arguments))
        for (each, arguments), (_, theirs) in zip(work, pipes, strict=True)
    ]
    for process in processes:
        process.start()
    for _, theirs in pipes:
        theirs.close()
    writer, *others = [ours for ours, _ in pipes]
    asked = ask_in_threads(path, writer, threads)
    for ours in others:
        ours.send("end")
        asked += result(ours)
    for process in processes:
        process.join()
    return asked


def result(reports: Connection) -> int:
    """Wait for what a process reports at its end."""
    report = reports.recv()
    assert isinstance(report, int), report
    return report


def attached() -> fotmem.Memory:
    """Attach an empty memory to a tiny model."""
    return fotmem.attach(tiny.llama(), layers=LAYERS, window=WINDOW, top_k=4)


def write(reports: Connection, path: Path, changes: int, seed: int) -> None:
    """Read, replace, remove and compact."""
    try:
        random, memory = Random(seed), opened(path)
        for _ in range(changes):
            memory = change(memory, path, random)
        memory.close()
        reports.send(changes)
    except BaseException as error:
        reports.send(f"the writer failed: {error!r}")


def opened(path: Path) -> fotmem.Memory:
    """Open the memory for writing."""
    return fotmem.open_memory(path, tiny.llama(), writable=True)


def change(memory: fotmem.Memory, path: Path, random: Random) -> fotmem.Memory:
    """Make one change."""
    names = [each.name for each in memory.documents]
    what = random.choice(("read", "read", "read", "remove", "compact"))
    if what == "remove" and names:
        memory.remove(random.choice(names))
    elif what == "compact":
        memory.close()
        compact(path)
        return opened(path)
    else:
        name, version = random.choice(NAMES), random.randrange(VERSIONS)
        memory.read(text(name, version), document=name)
    return memory


def text(name: str, version: int) -> Tensor:
    """Return the tokens of a version of a document."""
    seed = NAMES.index(name) * VERSIONS + version
    return tiny.ids(20 + 37 * seed % 150, seed=seed)


def read(reports: Connection, path: Path) -> None:
    """Refresh and ask until told to end."""
    try:
        model, asked = tiny.llama(), 0
        memory = fotmem.open_memory(path, model)
        while not reports.poll():
            memory.refresh()
            require_one_of(answer(model), [shown(memory)])
            asked += 1
        reports.send(asked)
    except BaseException as error:
        reports.send(f"a reader failed: {error!r}")


def ask_in_threads(path: Path, writer: Connection, threads: int) -> int:
    """Refresh in one thread and ask in others, until the writer has ended."""
    model, ended = tiny.llama(), threading.Event()
    memory = fotmem.open_memory(path, model)
    seen = [shown(memory)]

    def ask() -> int:
        asked = 0
        while not ended.is_set():
            before = len(seen) - 1
            given = answer(model)
            require_one_of(given, [*seen[max(0, before - 1) :], shown(memory)])
            asked += 1
        return asked

    with ThreadPoolExecutor(threads) as pool:
        asking = [pool.submit(ask) for _ in range(threads)]
        try:
            while not writer.poll():
                memory.refresh()
                seen.append(shown(memory))
        finally:
            ended.set()
    result(writer)
    memory.refresh()
    require_one_of(answer(model), [shown(memory)])
    return sum(each.result() for each in asking)


def shown(memory: fotmem.Memory) -> Shown:
    """Return the documents that a memory shows."""
    return tuple(each.sha256 for each in memory.documents)


def answer(model: torch.nn.Module) -> Tensor:
    """Ask."""
    logits: Tensor = model(tiny.ids(9, seed=99)).logits
    return logits


def require_one_of(given: Tensor, allowed: list[Shown]) -> None:
    """Require that an answer is that of one of these commits."""
    right = (expected(each) for each in reversed(allowed))
    assert any(torch.allclose(given, each, atol=1e-4, rtol=1e-4) for each in right), allowed[-1]


@functools.cache
def expected(documents: Shown) -> Tensor:
    """Return the answer of a memory that has read these documents and nothing else."""
    memory = attached()
    for number, each in enumerate(documents):
        memory.read(known()[each], document=f"{number}")
    return answer(memory.attached_model.parts.model)


@functools.cache
def known() -> dict[str, Tensor]:
    """Return all texts, by checksum."""
    memory, found = attached(), {}
    for name in NAMES:
        for version in range(VERSIONS):
            memory.read(text(name, version), document=name)
            found[memory.documents[-1].sha256] = text(name, version)
    return found
