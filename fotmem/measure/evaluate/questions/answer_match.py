"""Compares what a model said with the right answers, as SQuAD does.

Rajpurkar et al. 2016 (arXiv:1606.05250): case, punctuation and articles do not count.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

ARTICLES = ("a", "an", "the")
UNSPACED = re.compile(
    "["
    "\u3005-\u3007\u3041-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    "\u0e01-\u0e4e\u0e81-\u0ece\u1000-\u103f\u1780-\u17dd"
    "]"
)
"""Characters of scripts without spaces between words: of Chinese and Japanese; of Thai, Lao,
Burmese and Khmer. Each is a word."""


def normalized(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation, symbols and articles.

    Examples
    --------
    >>> normalized("The captain's  dog.")
    ['captains', 'dog']
    >>> normalized("花落。")
    ['花', '落']
    """
    letters = unicodedata.normalize("NFC", text.lower())
    bare = "".join(each for each in letters if unicodedata.category(each)[0] not in "PS")
    words = UNSPACED.sub(r" \g<0> ", bare).split()
    return [word for word in words if word not in ARTICLES]


def contains(said: str, answers: Iterable[str]) -> bool:
    """Return whether one of the answers occurs in what was said, as whole words.

    Examples
    --------
    >>> contains("It was a dog.", ["the dog", "hound"])
    True
    """
    words = f" {' '.join(normalized(said))} "
    return any(f" {' '.join(normalized(answer))} " in words for answer in answers)


def token_f1(said: str, answers: Iterable[str]) -> float:
    """Return the harmonic mean of precision and recall of the words, for the best answer.

    Examples
    --------
    >>> token_f1("old dog", ["dog", "hound"])
    0.6666666666666666
    """
    return max(_f1(normalized(said), normalized(answer)) for answer in answers)


def _f1(said: list[str], answer: list[str]) -> float:
    common = (Counter(said) & Counter(answer)).total()
    return 2 * common / (len(said) + len(answer)) if common else 0.0
