"""The interface of a way to answer questions about a text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from fotmem.errors import InputError
from fotmem.measure.evaluate.text_edits import Edit, edited


@dataclass(frozen=True)
class Question:
    """A question about a text, and how its answer is scored."""

    prompt: list[int]
    """Token ids: the question, and perhaps the beginning of the answer."""
    new_tokens: int
    """Tokens to generate at most."""
    score: Callable[[str], float]
    """Scores an answer, from 0 to 1."""
    until: Callable[[str], bool] | None = None
    """Ends the generation where it returns True for what was said so far."""
    query: str | None = None
    """What a search engine is asked; None: the text of the prompt."""
    evidence: list[int] = field(default_factory=list)
    """Token ids of what the answer needs, short enough for the window; empty: not named."""

    @property
    def room(self) -> int:
        """Tokens of question and answer."""
        return len(self.prompt) + self.new_tokens


@dataclass(frozen=True)
class AskedText:
    """A text as token ids, and the questions about it."""

    read: list[int]
    """What a memory reads; once, if the same list is that of several texts one after another."""
    local: list[int]
    """The end of the text, which stays in the window."""
    questions: Sequence[Question]
    edits: Sequence[Edit] = ()
    """How the text differs from what is read."""

    @property
    def tokens(self) -> list[int]:
        """The whole text."""
        return [*edited(self.read, self.edits), *self.local]


class Way(ABC):
    """A way to answer questions about a text with a model: read once, then ask as often as needed.

    Parameters
    ----------
    model, tokenizer
        A causal language model and its tokenizer.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer

    @abstractmethod
    def reading(self, text: AskedText, room: int) -> AbstractContextManager[None]:
        """Know a text inside a ``with`` block; do all that no question is needed for.

        Parameters
        ----------
        text : AskedText
        room : int
            Tokens of the longest question with its answer.

        Raises
        ------
        InputError
            `room` leaves nothing of a window for the text.
        """

    @abstractmethod
    def answer(self, question: Question) -> str:
        """Answer a question about the text greedily."""

    @property
    @abstractmethod
    def kept_bytes(self) -> int:
        """Bytes that are kept between two questions."""


class WindowWay(Way):
    """A way in which the model sees no more than a window: text, question and answer.

    Parameters
    ----------
    model, tokenizer
        As for `Way`.
    window : int
        Tokens that the model sees at once, at most.
    """

    def __init__(self, model: Any, tokenizer: Any, window: int) -> None:
        super().__init__(model, tokenizer)
        self.window = window

    @abstractmethod
    def read(self, text: list[int], room: int) -> None:
        """Read the token ids of a text, in place of the one before; otherwise as `reading`."""

    @contextmanager
    def reading(self, text: AskedText, room: int) -> Iterator[None]:
        """See `Way.reading`."""
        self.read(text.tokens, room)
        yield

    def text_room(self, room: int) -> int:
        """Return how many tokens of text fit the window beside question and answer.

        Raises
        ------
        InputError
            No token does.
        """
        if room >= self.window:
            raise InputError(
                f"a window of {self.window:,} tokens has no room for text: {room:,} are needed for "
                f"question, answer and what stands beside them; take a larger window"
            )
        return self.window - room
