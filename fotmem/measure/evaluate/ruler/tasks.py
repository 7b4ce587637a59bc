"""The tasks by their names, which are those of the paper's code."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

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
TASKS: dict[str, Callable[[Source, int, Random], Sample]] = {
    **NEEDLES,
    "vt": track_variables,
    "cwe": find_common_words,
    "fwe": find_frequent_words,
    "qa": answer_from_passages,
}


def make_samples(source: Source, task: str, *, tokens: int, trials: int, seed: int) -> list[Sample]:
    """Make samples of a task; each depends on its number, the length and the seed alone.

    Raises
    ------
    InputError
        The text is too short, or `tokens` has no room for the task.
    """
    return [
        TASKS[task](source, tokens, Random(f"{task} {tokens} {seed} {trial}"))
        for trial in range(trials)
    ]
