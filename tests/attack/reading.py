"""Kills a process in which a model reads texts into a memory's directory."""

import functools
from collections.abc import Callable
from pathlib import Path
from random import Random
from unittest.mock import patch

import fotmem
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.disk import ROOT
from fotmem.disk.quantization import Quantization
from fotmem.memory import saving
from tests import tiny
from tests.attack import memory_crash
from tests.attack.originals import Originals
from tests.attack.outcome import Outcome
from tests.attack.target import Target
from tests.memory_rows import Rows, assert_equal_rows

LENGTHS = (300, 7, 150, 600, 16, 90, 450, 33, 250, 500)
COMMIT = 40
QUANTIZATIONS: tuple[Quantization | None, ...] = (None, "int8", "int4")


def attack(target: Target, random: Random, folder: Path, originals: Originals) -> Outcome:
    """Kill processes that read into one directory."""
    quantization = random.choice(QUANTIZATIONS)
    return memory_crash.attack(ModelReader(quantization), random, folder)


class ModelReader(memory_crash.Reader):
    """A tiny random LLaMA that reads some documents."""

    def __init__(self, quantization: Quantization | None) -> None:
        self.quantization = quantization

    def read(self, directory: Path, seed: int, opened: Callable[[MemoryDirectory], None]) -> None:
        memory = self._opened(directory)
        assert memory.attached_model.contents.directory is not None
        opened(memory.attached_model.contents.directory)
        with patch.object(saving, "COMMIT", COMMIT):
            _read(memory)

    def read_on(self, directory: Path, seed: int) -> None:
        memory = self._opened(directory)
        read = sum(each.is_complete for each in memory.documents)
        _read(memory, read + 1)
        if read >= len(LENGTHS):  # a commit tidies up in any case
            memory.save(directory)
        memory.close()

    def expect(self, directory: MemoryDirectory) -> None:
        ids, starts, stops, layers = _uninterrupted()
        rows, codecs = len(directory), {e.layer: e.codec for e in directory.manifest.layers}
        pairs = {
            n: codecs[n].decode(codecs[n].encode(keys[:, :rows], values[:, :rows]))
            for n, (keys, values) in layers.items()
        }
        assert_equal_rows(directory, (ids[:rows], starts[:rows], stops[:rows], pairs))

    def raw_bytes(self, rows: int) -> int:
        elements = sum(keys.shape[0] * keys.shape[2] for keys, _ in _uninterrupted()[3].values())
        return rows * (3 * 4 + 2 * 4 * elements)

    def _opened(self, path: Path) -> fotmem.Memory:
        if (path / ROOT).exists():
            return fotmem.open_memory(path, tiny.llama(), writable=True)
        memory = attached()
        memory.save(path, quantization=self.quantization)
        return memory


def attached() -> fotmem.Memory:
    """Attach an empty memory to a tiny model."""
    return fotmem.attach(tiny.llama(), layers=tiny.LAYERS, window=tiny.WINDOW, top_k=4)


def _read(memory: fotmem.Memory, upto: int | None = None) -> None:
    """Read the documents that were not read to their end."""
    done = {each.name for each in memory.documents if each.is_complete}
    for number, length in list(enumerate(LENGTHS))[:upto]:
        if f"{number}" not in done:
            memory.read(tiny.ids(length, seed=number), document=f"{number}")


@functools.cache
def _uninterrupted() -> Rows:
    """Read all documents at once: the rows that every reading must give."""
    memory = attached()
    _read(memory)
    ids, starts, stops = memory.attached_model.contents.text.rows(0, len(memory))
    return ids, starts, stops, {n: tiny.contents(store) for n, store in memory.stores.items()}
