"""The end of a text, which stays in the window: all that a model sees without a memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fotmem.measure.evaluate.alternatives.way import AskedText, Question, Way
from fotmem.tasks.answer import answer_question


class LocalText(Way):
    """The model sees the local text of a text and the question; the rest is not read.

    Parameters
    ----------
    model, tokenizer
        A causal language model and its tokenizer.
    evidence : bool
        Whether the evidence of each question stands before them.
    """

    _local: list[int]

    def __init__(self, model: Any, tokenizer: Any, *, evidence: bool = False) -> None:
        super().__init__(model, tokenizer)
        self._evidence = evidence

    @contextmanager
    def reading(self, text: AskedText, room: int) -> Iterator[None]:
        """See `Way.reading`."""
        self._local = text.local
        yield

    def answer(self, question: Question) -> str:
        """See `Way.answer`."""
        before = question.evidence if self._evidence else []
        return self._said([*before, *self._local, *question.prompt], question)

    def _said(self, prompt: list[int], question: Question) -> str:
        """Return what the model says to a prompt, as long as the question wants it."""
        return answer_question(
            self.model,
            self.tokenizer,
            prompt,
            max_new_tokens=question.new_tokens,
            until=question.until,
        ).text

    @property
    def kept_bytes(self) -> int:
        """Nothing is kept."""
        return 0
