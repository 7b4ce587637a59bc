"""fotmem itself, measured as its alternatives are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fotmem.measure.evaluate.alternatives.local_text import LocalText
from fotmem.measure.evaluate.alternatives.way import AskedText, Question
from fotmem.measure.evaluate.text_edits import put
from fotmem.measure.reading import remember
from fotmem.tasks.asking import rereading

if TYPE_CHECKING:
    from fotmem.memory.memory import Memory


class AttachedMemory(LocalText):
    """The rest of the text is in memory: the model attends to it, or reads passages of it again.

    Parameters
    ----------
    model, tokenizer
        The model that the memory is attached to, and its tokenizer.
    memory : Memory
    passages : int
        How many passages are read again for a question; 0: the model attends to memory.
    attend : bool
        Whether windows attend to memory while they are read.
    """

    _held: list[int] | None = None

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        memory: Memory,
        *,
        passages: int = 0,
        attend: bool = False,
    ) -> None:
        super().__init__(model, tokenizer)
        self.passages, self._memory, self._attend = passages, memory, attend

    @contextmanager
    def reading(self, text: AskedText, room: int) -> Iterator[None]:
        """See `Way.reading`. What was read for the text before is not read again."""
        if text.read is not self._held:
            self._memory.clear()
            remember(self._memory, text.read, attend=self._attend)
            self._held = text.read
        with super().reading(text, room), self._edited(text):
            yield

    def answer(self, question: Question) -> str:
        """See `Way.answer`."""
        with rereading(
            self._memory,
            self._local,
            question.prompt,
            passages=self.passages,
            max_new_tokens=question.new_tokens,
        ) as prompt:
            return self._said(prompt, question)

    @contextmanager
    def _edited(self, text: AskedText) -> Iterator[None]:
        if not text.edits:
            yield
            return
        with self._memory.temporarily():
            put(self._memory, text.edits, attend=self._attend)
            yield

    @property
    def kept_bytes(self) -> int:
        """Of the memory, in RAM and on disk."""
        stats = self._memory.stats()
        return stats.ram_bytes + stats.disk_bytes
