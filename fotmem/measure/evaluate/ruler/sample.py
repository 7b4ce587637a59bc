"""A sample of a task, and its score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fotmem.measure.evaluate.text_edits import Edit, edited


@dataclass(frozen=True)
class Sample:
    """A text with a question about it, and the answers. Texts are token ids."""

    read: list[int]
    """What is read into memory: the same list for all samples that share a text."""
    local: list[int]
    """The end of the text, which stays in the window. Nothing that was hidden is in it."""
    question: list[int]
    """The question, and the beginning of the answer."""
    evidence: list[int]
    """What a model must know, short enough for the window."""
    answers: list[str]
    new_tokens: int
    """Tokens to generate at most, those of the paper's code."""
    one_suffices: bool = False
    """Whether the answers mean the same; otherwise all of them are asked for."""
    edits: Sequence[Edit] = ()
    """What is hidden in a shared text for this sample alone."""

    @property
    def text(self) -> list[int]:
        """The whole text."""
        return [*edited(self.read, self.edits), *self.local]

    @property
    def tokens(self) -> int:
        """Length of text, question and answer."""
        return len(self.text) + len(self.question) + self.new_tokens

    def score(self, said: str) -> float:
        """Score what a model said; see `match`."""
        return match(said, self.answers, one_suffices=self.one_suffices)

    def is_complete(self, said: str) -> bool:
        """Return whether the score cannot rise any more."""
        return self.score(said) == 1


def match(said: str, answers: list[str], *, one_suffices: bool = False) -> float:
    """Score what a model said: the share of the answers that occur in it, in whatever case.

    If one suffices, the score is 1 or 0.

    Examples
    --------
    >>> match("It is 12, or perhaps 7.", ["12", "34"])
    0.5
    >>> match("in LISBON", ["Lisbon", "Lisboa"], one_suffices=True)
    1.0
    """
    found = [answer.lower() in said.lower() for answer in answers]
    return float(any(found)) if one_suffices else sum(found) / len(found)
