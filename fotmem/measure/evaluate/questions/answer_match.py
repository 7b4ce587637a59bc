"""Compares what a model said with the right answers, as SQuAD does.

Rajpurkar et al. 2016 (arXiv:1606.05250): case, punctuation and articles do not count.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable


def normalized(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation and articles.

    Examples
    --------
    >>> normalized("The captain's  dog.")
    ['captains', 'dog']
    """
    bare = re.sub(r"[^\w\s]|_", "", text.lower())
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


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
