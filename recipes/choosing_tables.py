"""Tables of settings that were measured with the same questions and the same windows of text."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

import numpy as np
import torch

from fotmem.measure.bench.figures import Figure, interval
from fotmem.measure.evaluate.intervals import wilson
from recipes.choosing_scores import Scores, Setting
from recipes.reports import ranged, table


def figure(scores: Sequence[float]) -> Figure:
    """Return the mean of scores, with its 95% interval (bootstrap)."""
    return interval(np.mean, torch.tensor(scores))


def answer_figure(scores: Sequence[float]) -> Figure:
    """Return the same of answers: the interval is Wilson's where each is right or wrong."""
    if set(scores) <= {0.0, 1.0}:
        return Figure(fmean(scores), *wilson(sum(scores), len(scores)))
    return figure(scores)


def figures(scores: Scores) -> dict[str, dict[str, Figure]]:
    """Return the figures of all scores."""
    makers = zip(scores._asdict().items(), (answer_figure, figure, figure), strict=True)
    return {
        kind: {name: make(each) for name, each in some.items()} for (kind, some), make in makers
    }


def tables(setting: Setting, scores: Scores, first: Scores) -> str:
    """Write the tables of a setting; differences are paired with the first setting."""
    head = ["mean (95%)", "minus the first setting"]
    answers = _rows(scores.answers, first.answers, answer_figure)
    shares = _rows(_with_mean(scores.shares), _with_mean(first.shares), figure)
    known = {row[0]: row for row in shares}
    cost = {name: fmean(each) for name, each in _with_mean(scores.costs).items()}
    texts = [[*known.get(name, [name, "", ""]), f"{each:+.3f}"] for name, each in cost.items()]
    texts.append([*_worst(scores.shares), f"{max(cost.values()):+.3f}"])
    cost_head = "loss without memory, minus that of smollm2"
    asked = table(["asked", *head], answers)
    text = table(["share of full attention's gain", *head, cost_head], texts)
    return f"{titled(setting)}\n\n{asked}\n{text}"


def titled(setting: Setting) -> str:
    """Write a setting as the command line has it."""
    values = {name: "all" if value is None else value for name, value in setting.items()}
    return ",".join(f"{name}={value}" for name, value in values.items())


def _with_mean(scores: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """Add the mean of all texts, which have equally many windows; nothing if there are none."""
    every = [each for some in scores.values() for each in some]
    return {**scores, "**mean**": every} if every else {}


def _worst(shares: Mapping[str, list[float]]) -> list[str]:
    if not shares:
        return ["**worst**", "", ""]
    lowest = min(shares, key=lambda name: fmean(shares[name]))
    return [f"**worst** ({lowest})", f"{fmean(shares[lowest]):.2f}", ""]


def _rows(
    scores: Mapping[str, list[float]],
    first: Mapping[str, list[float]],
    make: Callable[[Sequence[float]], Figure],
) -> list[list[str]]:
    return [
        [name, ranged(make(each), 2), _difference(each, first[name])]
        for name, each in scores.items()
    ]


def _difference(scores: Sequence[float], first: Sequence[float]) -> str:
    """Write the mean of paired differences; nothing where there are none."""
    differences = [one - other for one, other in zip(scores, first, strict=True)]
    return ranged(figure(differences), 3) if any(differences) else ""
