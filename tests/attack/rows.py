"""Kills a process that writes rows to a memory's directory."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from unittest.mock import patch

import torch

from fotmem.directory import memory_directory
from fotmem.directory.facts import DocumentEntry
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.disk import ROOT, LayerShape
from tests.attack import memory_crash
from tests.attack.originals import Originals
from tests.attack.outcome import Outcome
from tests.attack.target import Target
from tests.memory_rows import FACTS, assert_holds, document, draw

SHAPES = {3: LayerShape(2, 64, torch.float32), 7: LayerShape(1, 96, torch.bfloat16)}
BLOCK, DOCUMENT, STEPS = 64, 300, 12


def attack(target: Target, random: Random, folder: Path, originals: Originals) -> Outcome:
    """Kill writers of one directory."""
    return memory_crash.attack(RowWriter(), random, folder)


class RowWriter(memory_crash.Reader):
    """Appends rows, commits, and opens the directory anew."""

    def read(self, directory: Path, seed: int, opened: Callable[[MemoryDirectory], None]) -> None:
        random, memory = Random(seed), _opened(directory)
        opened(memory)
        for _ in range(STEPS):
            _append(memory, random.randrange(150))
            if random.random() < 0.6:
                memory.commit(_documents(len(memory)))
                if random.random() < 0.2:
                    memory.close()
                    memory = _opened(directory)

    def read_on(self, directory: Path, seed: int) -> None:
        memory = _opened(directory)
        _append(memory, 1 + Random(seed).randrange(150))
        memory.commit(_documents(len(memory)))
        memory.close()

    def expect(self, directory: MemoryDirectory) -> None:
        assert_holds(directory, len(directory), SHAPES)

    def raw_bytes(self, rows: int) -> int:
        elements = sum(s.heads * s.head_dim * s.dtype.itemsize for s in SHAPES.values())
        return rows * (3 * 4 + 2 * elements)


def _opened(path: Path) -> MemoryDirectory:
    if (path / ROOT).exists():
        return MemoryDirectory.open(path, writable=True)
    with patch.object(memory_directory, "BLOCK", BLOCK):
        return MemoryDirectory.create(path, SHAPES, FACTS)


def _append(memory: MemoryDirectory, count: int) -> None:
    memory.append(*draw(len(memory), len(memory) + count, SHAPES))


def _documents(rows: int) -> list[DocumentEntry]:
    """Cut rows into documents; the last one is not complete."""
    return [
        document(
            first, min(first + DOCUMENT, rows), f"{first}", is_complete=first + DOCUMENT <= rows
        )
        for first in range(0, rows, DOCUMENT)
    ]
