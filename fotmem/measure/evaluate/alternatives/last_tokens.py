"""The last tokens of a text, as many as fit a window."""

from __future__ import annotations

from fotmem.measure.evaluate.alternatives.kept_keys import KeptKeys, read_keys
from fotmem.measure.evaluate.alternatives.way import Question, WindowWay


class LastTokens(WindowWay):
    """Full attention to the end of the text; its beginning is cut off.

    With the model's whole context as window, this is the prompt that most users write. Keys and
    values are kept for further questions.
    """

    _kept: KeptKeys

    def read(self, text: list[int], room: int) -> None:
        """See `WindowWay.read`."""
        self._kept = read_keys(self.model, text[-self.text_room(room) :])

    def answer(self, question: Question) -> str:
        """See `Way.answer`."""
        return self._kept.answer(self.model, self.tokenizer, question)

    @property
    def kept_bytes(self) -> int:
        """Of keys and values."""
        return self._kept.nbytes
