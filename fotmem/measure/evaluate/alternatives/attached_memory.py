"""fotmem itself, measured as its alternatives are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fotmem.measure.evaluate.alternatives.local_text import LocalText
from fotmem.measure.evaluate.alternatives.way import AskedText
from fotmem.measure.reading import remember

if TYPE_CHECKING:
    from fotmem.memory.memory import Memory


class AttachedMemory(LocalText):
    """The rest of the text is in memory, which the model attends to.

    Parameters
    ----------
    model, tokenizer
        The model that the memory is attached to, and its tokenizer.
    memory : Memory
    attend : bool
        Whether windows attend to memory while they are read.
    """

    def __init__(self, model: Any, tokenizer: Any, memory: Memory, *, attend: bool = False) -> None:
        super().__init__(model, tokenizer)
        self._memory, self._attend = memory, attend

    @contextmanager
    def reading(self, text: AskedText, room: int) -> Iterator[None]:
        """See `Way.reading`."""
        self._memory.clear()
        remember(self._memory, text.read, attend=self._attend)
        with super().reading(text, room):
            yield

    @property
    def kept_bytes(self) -> int:
        """Of the memory, in RAM and on disk."""
        stats = self._memory.stats()
        return stats.ram_bytes + stats.disk_bytes
