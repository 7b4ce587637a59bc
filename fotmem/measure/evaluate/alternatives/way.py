"""The interface of a way to answer questions about a text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from fotmem.errors import InputError


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

    @property
    def room(self) -> int:
        """Tokens of question and answer."""
        return len(self.prompt) + self.new_tokens


class AskedText(NamedTuple):
    """A text, and the questions about it."""

    text: list[int]
    """Token ids."""
    questions: Sequence[Question]


class Way(ABC):
    """A way to answer questions about a text with a model: read once, then ask as often as needed.

    Parameters
    ----------
    model, tokenizer
        A causal language model and its tokenizer.
    window : int
        Tokens that the model sees at once, at most: text, question and answer.
    """

    def __init__(self, model: Any, tokenizer: Any, window: int) -> None:
        self.model, self.tokenizer, self.window = model, tokenizer, window

    @abstractmethod
    def read(self, text: list[int], room: int) -> None:
        """Read a text, in place of the one before; do all that no question is needed for.

        Parameters
        ----------
        text : list of int
            Token ids.
        room : int
            Tokens of the longest question with its answer.

        Raises
        ------
        InputError
            `room` leaves nothing of the window for the text.
        """

    @abstractmethod
    def answer(self, question: Question) -> str:
        """Answer a question about the text greedily."""

    @property
    @abstractmethod
    def kept_bytes(self) -> int:
        """Bytes that are kept between two questions."""

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
