"""StreamingLLM: a window that slides over the text, and the first tokens as attention sinks."""

from __future__ import annotations

from fotmem.measure.evaluate.alternatives.kept_keys import KeptKeys, read_keys
from fotmem.measure.evaluate.alternatives.way import Question, WindowWay

SINKS = 4
"""First tokens of the text that are never forgotten; the paper's number."""
STEPS = 8
"""Steps in which a window slides over its own length."""


class AttentionSinks(WindowWay):
    """The whole text is read; keys and values of the sinks and of the last tokens are kept.

    Xiao et al. 2023, arXiv:2309.17453. The window moves on by an eighth of its length at a time:
    a token sees between seven eighths of a window and a whole one. Sinks stand directly before
    the window, as in the paper: they are read anew at the position that is free there, which gives
    the same keys as rotating them would. Positions of a text may exceed those of the model, but no
    two tokens that see each other are further apart than a window.
    """

    _kept: KeptKeys

    def read(self, text: list[int], room: int) -> None:
        """See `WindowWay.read`."""
        size = self.text_room(room)
        step = max(1, size // STEPS)
        sinks, rest = text[:SINKS], text[SINKS:]
        window = KeptKeys([], len(sinks), [])
        for start in range(0, len(rest), step):
            some = rest[start : start + step]
            behind = self._with_sinks(sinks, window.last(size - len(some)))
            window = behind.extended(self.model, some).last(min(size, start + len(some)))
        self._kept = self._with_sinks(sinks, window)

    def text_room(self, room: int) -> int:
        """See `WindowWay.text_room`; the sinks take room as well."""
        return super().text_room(room + SINKS)

    def answer(self, question: Question) -> str:
        """See `Way.answer`."""
        return self._kept.answer(self.model, self.tokenizer, question)

    @property
    def kept_bytes(self) -> int:
        """Of keys and values."""
        return self._kept.nbytes

    def _with_sinks(self, sinks: list[int], window: KeptKeys) -> KeptKeys:
        return read_keys(self.model, sinks, window.first - len(sinks)).before(window)
