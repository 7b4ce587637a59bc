"""The tasks by their names, which are those of the paper's code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random

from fotmem.errors import InputError
from fotmem.measure.evaluate.ruler.haystacks import Source
from fotmem.measure.evaluate.ruler.lists import find_common_words, find_frequent_words
from fotmem.measure.evaluate.ruler.needles import NeedleTask
from fotmem.measure.evaluate.ruler.passages import answer_from_passages
from fotmem.measure.evaluate.ruler.sample import Sample
from fotmem.measure.evaluate.ruler.variables import track_variables

NEEDLES = {
    "niah_single_1": NeedleTask("noise"),
    "niah_single_2": NeedleTask("text"),
    "niah_single_3": NeedleTask("text", value="uuids"),
    "niah_multikey_1": NeedleTask("text", keys=4),
    "niah_multikey_2": NeedleTask("needles"),
    "niah_multikey_3": NeedleTask("needles", key="uuids", value="uuids"),
    "niah_multivalue": NeedleTask("text", values=4),
    "niah_multiquery": NeedleTask("text", keys=4, asked=4),
}
Task = Callable[[Source, int, Sequence[Random], int], list[Sample]]
"""Makes a sample of a length from each draw; those that can, share a text, whose windows have the
length that comes last."""


def _apart(make: Callable[[Source, int, Random], Sample]) -> Task:
    """Give each sample a text of its own: what it is asked for depends on all of it."""
    return lambda source, tokens, draws, window: [make(source, tokens, draw) for draw in draws]


TASKS: dict[str, Task] = {
    **NEEDLES,
    "vt": track_variables,
    "cwe": _apart(find_common_words),
    "fwe": _apart(find_frequent_words),
    "qa": answer_from_passages,
}


def make_samples(
    source: Source,
    task: str,
    *,
    tokens: int,
    trials: int,
    seed: int,
    readings: int | None = None,
    window: int = 0,
) -> list[Sample]:
    """Make samples of a task; each depends on its number, the length and the seed alone.

    With `readings`, the samples of tasks that can share that many texts, and depend on each other:
    needles and chains of variables are hidden in windows of `window` tokens of a shared haystack,
    passages are different ones of the same text. Common and frequent words never share a text.

    Raises
    ------
    InputError
        The text is too short, or `tokens` has no room for the task; the message names the task.
    """
    draws = [Random(f"{task} {tokens} {seed} {trial}") for trial in range(trials)]
    texts = min(readings or trials, trials)
    ends = [trials * number // texts for number in range(texts + 1)]
    try:
        return [
            sample
            for start, stop in pairwise(ends)
            for sample in TASKS[task](source, tokens, draws[start:stop], window)
        ]
    except InputError as error:
        raise InputError(f"{task}: {error}") from error
