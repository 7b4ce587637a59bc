"""Retrieval: the passages of a text that BM25 ranks best, in the prompt."""

from __future__ import annotations

from typing import Any

import numpy as np

from fotmem.errors import require_packages
from fotmem.measure.evaluate.alternatives.way import Question, WindowWay
from fotmem.measure.evaluate.questions.answer_match import UNSPACED
from fotmem.tasks.answer import answer_question

PASSAGE = 100
"""Tokens of a passage."""
STRIDE = 50
"""Tokens from the beginning of a passage to that of the next one: what one cuts in two stands whole
in another."""
WORD = rf"{UNSPACED.pattern}|\b\w\w+\b"
"""A word of two letters or more, or a character that is one."""
ARRAYS = ("data", "indices", "indptr")
"""Arrays of an index."""


class Passages(WindowWay):
    """The best passages for a question fill the window, in the order of the text; one is cut.

    Passages overlap by half; those that overlap with a better one come after all others.

    Ranked by BM25 (Robertson and Zaragoza 2009) of the library bm25s, with English stop words.
    """

    _text: list[int]
    _bm25: Any

    def read(self, text: list[int], room: int) -> None:
        """See `WindowWay.read`."""
        require_packages("the alternative bm25", "bm25s")
        import bm25s

        self.text_room(room)
        self._text = text
        passages = [text[i : i + PASSAGE] for i in self._starts]
        words = self._words(self.tokenizer.batch_decode(passages))
        self._bm25 = None
        if any(words):
            self._bm25 = bm25s.BM25()
            self._bm25.index(words, show_progress=False)

    def answer(self, question: Question) -> str:
        """See `Way.answer`."""
        return answer_question(
            self.model,
            self.tokenizer,
            [*self.found(question), *question.prompt],
            max_new_tokens=question.new_tokens,
            until=question.until,
        ).text

    def found(self, question: Question) -> list[int]:
        """Return the tokens of the best passages."""
        query = question.query
        [words] = self._words([self.tokenizer.decode(question.prompt) if query is None else query])
        scores = np.zeros(len(self._starts))
        if words and self._bm25 is not None:
            scores = self._bm25.get_scores(words)
        room, chosen = self.text_room(question.room), np.zeros(len(self._text), dtype=bool)
        ranked = [self._starts[number] for number in np.argsort(-scores, kind="stable")]
        for is_apart in (True, False):
            for start in ranked:
                free = ~chosen[start : start + PASSAGE]
                if free.all() or not is_apart:
                    new = start + np.flatnonzero(free)[:room]
                    chosen[new] = True
                    room -= len(new)
        return [self._text[place] for place in np.flatnonzero(chosen)]

    @property
    def kept_bytes(self) -> int:
        """Of the index, and of tokens as int64."""
        arrays = [] if self._bm25 is None else [self._bm25.scores[name] for name in ARRAYS]
        index: int = sum(each.nbytes for each in arrays)
        return index + 8 * len(self._text)

    @property
    def _starts(self) -> range:
        """Where passages begin; the last one reaches the end of the text."""
        return range(0, max(1, len(self._text) - PASSAGE + STRIDE), STRIDE)

    def _words(self, texts: list[str]) -> list[list[str]]:
        import bm25s

        words: list[list[str]] = bm25s.tokenize(
            [UNSPACED.sub(r" \g<0> ", text) for text in texts],
            token_pattern=WORD,
            stopwords="en",
            return_ids=False,
            show_progress=False,
        )
        return words
