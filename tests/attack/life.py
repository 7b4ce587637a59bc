"""Kills a process that reads, replaces, removes, repairs, compacts, and keeps indexes."""

import functools
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

import fotmem
from fotmem.directory import memory_directory
from fotmem.directory.compact import compact
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.directory.repair import repair
from fotmem.disk import ROOT
from fotmem.memory import reading, saving
from fotmem.memory.contents import Contents
from fotmem.stores import indexed_store
from tests import tiny
from tests.attack import memory_crash
from tests.attack.originals import Originals
from tests.attack.outcome import Outcome
from tests.attack.reading import attached
from tests.attack.target import Target

NAMES, VERSIONS, MOST = "abcdef", 3, 160
ACTIONS = 6
STORES = ("exact", "hnsw", "faiss-ivf")
COMMIT, BLOCK, INDEX_FROM = 40, 64, 64


def attack(target: Target, random: Random, folder: Path, originals: Originals) -> Outcome:
    """Kill processes that change one directory."""
    stores = [name for name in STORES if fotmem.available_stores()[name].available]
    return memory_crash.attack(Life(stores), random, folder)


class Life(memory_crash.Reader):
    """All that may happen to a memory's directory."""

    def __init__(self, stores: list[str]) -> None:
        self._stores = stores

    def read(self, directory: Path, seed: int, opened: Callable[[MemoryDirectory], None]) -> None:
        random = Random(seed)
        with (
            patch.object(saving, "COMMIT", COMMIT),
            patch.object(memory_directory, "BLOCK", BLOCK),
            patch.object(indexed_store, "EXACT_BELOW", INDEX_FROM),
        ):
            memory = self._opened(directory, random)
            opened(kept(memory))
            for _ in range(ACTIONS):
                memory = self._act(memory, directory, random)
            memory.close()

    def _act(self, memory: fotmem.Memory, directory: Path, random: Random) -> fotmem.Memory:
        documents = [each.name for each in memory.documents]
        match random.choice(("read", "read", "read", "remove", "reopen", "compact", "repair")):
            case "remove" if documents:
                memory.remove(random.choice(documents))
            case "reopen" | "compact" | "repair" as change:
                memory.close()
                if change == "compact":
                    compact(directory)
                elif change == "repair":
                    damage(directory, random)
                    repair(directory)
                return self._opened(directory, random)
            case _:
                read(memory, random.choice(NAMES), random.randrange(VERSIONS))
        return memory

    def _opened(self, path: Path, random: Random) -> fotmem.Memory:
        model = tiny.llama()
        if (path / ROOT).exists():
            return fotmem.open_memory(path, model, random.choice(self._stores), writable=True)
        memory = attached()
        memory.save(path)
        return memory

    def read_on(self, directory: Path, seed: int) -> None:
        with patch.object(memory_directory, "BLOCK", BLOCK):
            memory = self._opened(directory, Random(seed))
            read(memory, NAMES[seed % len(NAMES)], seed % VERSIONS)
            memory.close()
        if (directory / ROOT).exists() and seed % 2:
            compact(directory)

    def beside(self, directory: Path) -> Callable[[], None]:
        """Open a reader, which must go on with the commit that it shows."""
        if not (directory / ROOT).exists():
            return lambda: None
        memory = fotmem.open_memory(directory, tiny.llama())
        shown = state_of(memory)

        def check() -> None:
            assert state_of(memory) == shown, "a reader beside a killed writer has moved"
            expect_rows(memory)
            memory.close()

        return check

    def mend(self, directory: Path) -> None:
        repair(directory)

    def expect(self, directory: MemoryDirectory) -> None:
        rows = directory.tokens(0, len(directory))[0]
        pairs = {layer: joined(directory, layer) for layer in tiny.LAYERS}
        expect_documents(directory.manifest.documents, rows, pairs)

    def raw_bytes(self, rows: int) -> int:
        elements = sum(
            keys.shape[0] * keys.shape[2] for keys, _ in uninterrupted("a", 0)[1].values()
        )
        return rows * (3 * 4 + 2 * 4 * elements)


def state_of(memory: fotmem.Memory) -> memory_crash.State:
    """Return what a memory shows."""
    text = memory.attached_model.contents.text
    return memory_crash.State.with_documents(len(text), text.documents)


def expect_rows(memory: fotmem.Memory) -> None:
    """Expect what a memory holds in its stores."""
    text = memory.attached_model.contents.text
    pairs = {layer: tiny.contents(store) for layer, store in memory.stores.items()}
    expect_documents(text.documents, text.ids, pairs)


def expect_documents(documents: Any, ids: Tensor, pairs: dict[int, tuple[Tensor, Tensor]]) -> None:
    """Expect each document to be a beginning of what an uninterrupted reading gives."""
    for each in documents:
        if not (each.is_needed and len(each)):
            continue
        right_ids, right = uninterrupted(*known()[each.sha256])
        assert each.stop - each.first <= len(right_ids)
        assert not each.is_complete or len(each) == len(right_ids), f"{each.name} is cut off"
        assert torch.equal(ids[each.first : each.stop], right_ids[: len(each)]), each.name
        for layer, pair in pairs.items():
            for found, whole in zip(pair, right[layer], strict=True):
                assert torch.equal(found[:, each.first : each.stop], whole[:, : len(each)]), (
                    each.name
                )


def kept(memory: fotmem.Memory) -> MemoryDirectory:
    """Return the directory of a memory."""
    directory = memory.attached_model.contents.directory
    assert directory is not None
    return directory


def joined(directory: MemoryDirectory, layer: int) -> tuple[Tensor, Tensor]:
    """Read all keys and values of a layer, ``[H, N, D]``."""
    blocks = [(keys, values) for _, keys, values in directory.blocks(layer, 0, len(directory))]
    keys, values = zip(*blocks, strict=True) if blocks else ((), ())
    empty = torch.zeros(1, 0, 1)
    return torch.cat(keys, 1) if keys else empty, torch.cat(values, 1) if values else empty


def damage(directory: Path, random: Random) -> None:
    """Flip a bit of a chunk, if there is one."""
    files = sorted(directory.glob("*/**/c.*"))
    if files:
        file = random.choice(files)
        data = bytearray(file.read_bytes())
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        file.write_bytes(data)


def read(memory: fotmem.Memory, name: str, version: int) -> None:
    """Read one of the texts of this name; until it is whole, what was there must stay."""
    seed, before = NAMES.index(name) * VERSIONS + version, whole(memory)

    def committing(contents: Contents) -> None:
        saving.commit_if_due(contents)
        assert before <= whole(memory), "the old text is gone before the new one is there"

    with patch.object(reading, "commit_if_due", committing):
        memory.read(tiny.ids(1 + 53 * seed % MOST, seed=seed), document=name)


def whole(memory: fotmem.Memory) -> set[tuple[str, str]]:
    """Return name and checksum of each document that a memory's last commit shows whole."""
    directory = memory.attached_model.contents.directory
    return {
        (each.name, each.sha256)
        for each in (directory.manifest.documents if directory else ())
        if each.is_complete and not each.is_removed
    }


@functools.cache
def uninterrupted(name: str, version: int) -> tuple[Tensor, dict[int, tuple[Tensor, Tensor]]]:
    """Read a text at once: ids, and keys and values by layer."""
    memory = attached()
    read(memory, name, version)
    return memory.tokens, {n: tiny.contents(store) for n, store in memory.stores.items()}


@functools.cache
def known() -> dict[str, tuple[str, int]]:
    """Return name and version of each text, by its checksum."""
    found = {}
    for name in NAMES:
        for version in range(VERSIONS):
            memory = attached()
            read(memory, name, version)
            found[memory.documents[0].sha256] = (name, version)
    return found
