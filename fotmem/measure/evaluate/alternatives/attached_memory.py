"""fotmem itself, measured as its alternatives are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fotmem.measure.evaluate.alternatives.way import Question, Way
from fotmem.measure.reading import LOCAL, remember
from fotmem.tasks.answer import answer_question

if TYPE_CHECKING:
    from fotmem.memory.memory import Memory


class AttachedMemory(Way):
    """The text is in memory; its last `LOCAL` tokens stay in the window.

    Parameters
    ----------
    model, tokenizer
        The model that the memory is attached to, and its tokenizer.
    memory : Memory
    attend : bool
        Whether windows attend to memory while they are read.
    """

    _local: list[int]

    def __init__(self, model: Any, tokenizer: Any, memory: Memory, *, attend: bool = False) -> None:
        super().__init__(model, tokenizer, memory.options.window)
        self._memory, self._attend = memory, attend

    def read(self, text: list[int], room: int) -> None:
        """See `Way.read`."""
        self._memory.clear()
        self._local = text[-LOCAL:]
        remember(self._memory, text[:-LOCAL], attend=self._attend)

    def answer(self, question: Question) -> str:
        """See `Way.answer`."""
        return answer_question(
            self.model,
            self.tokenizer,
            [*self._local, *question.prompt],
            max_new_tokens=question.new_tokens,
            until=question.until,
        ).text

    @property
    def kept_bytes(self) -> int:
        """Of the memory, in RAM and on disk."""
        stats = self._memory.stats()
        return stats.ram_bytes + stats.disk_bytes
