"""Reads the answers that `recipes.answers_report` measured, and writes tables of them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from fotmem.measure.bench.figures import Figure, interval, ratio
from recipes.answers import Answer, Setting
from recipes.quality_report import REPORTS as QUALITY
from recipes.quality_report import qualities, report_of
from recipes.reports import ranged, table

NONE, BEST, ALL, CLUSTERS = SETTINGS = (
    Setting("none", None),
    Setting("exact", 32),
    Setting("exact", None),
    Setting("clusters", None),
)
Answers = dict[Setting, list[Answer]]
"""The answers of all settings to the same questions, in the same order."""


class CaseAnswers(NamedTuple):
    """The answers to a case with one setting."""

    task: str
    tokens: int
    number: int
    setting: Setting
    answers: list[Answer]


def read(file: Path) -> list[CaseAnswers]:
    """Read what was measured with a text: nothing yet, if there is no file."""
    lines = file.read_text("utf-8").splitlines() if file.exists() else []
    rows: Iterable[dict[str, Any]] = map(json.loads, lines)
    return [
        CaseAnswers(
            row["task"],
            row["tokens"],
            row["number"],
            Setting(*row["setting"]),
            [Answer(*each) for each in row["answers"]],
        )
        for row in rows
    ]


def tables(folder: Path) -> str:
    """Write the tables of perplexity, of questions about texts, and of the dictionary."""
    scored, answered = [], []
    for file in sorted(folder.glob("*.jsonl")):
        found = read(file)
        for task, tokens in dict.fromkeys((each.task, each.tokens) for each in found):
            answers = paired([each for each in found if each[:2] == (task, tokens)])
            if not answers:
                continue
            if task == "perplexity":
                scored.append([file.stem, f"{tokens:,}", *gains(answers)])
            else:
                answered.append([file.stem, task, f"{tokens:,}", *rights(answers)])
    about = ["text", "tokens", "windows", "loss without", f"gain: {ALL}"]
    asked = ["text", "task", "tokens", "asked", "without", *map(str, (BEST, ALL, CLUSTERS))]
    return "\n".join(
        [
            table([*about, f"share: {BEST}", f"share: {CLUSTERS}"], scored),
            table([*asked, "loss of `clusters` - all keys"], answered),
            *map(dictionary, folder.glob("dictionary.json")),
        ]
    )


def paired(found: list[CaseAnswers]) -> Answers:
    """Return the answers of each setting, in the same order, to cases that all settings have."""
    numbers = [{each.number for each in found if each.setting == one} for one in SETTINGS]
    common, together = set.intersection(*numbers), Answers()
    for each in sorted(found, key=lambda one: one.number):
        if each.number in common:
            together.setdefault(each.setting, []).extend(each.answers)
    return together


def gains(answers: Answers) -> list[str]:
    """Write what memory gains, in nats, and the shares of the gain with all keys."""
    losses = {one: torch.tensor([each.loss for each in some]) for one, some in answers.items()}
    gained = {one: losses[NONE] - loss for one, loss in losses.items()}
    shares = [interval(ratio, gained[one], gained[ALL]) for one in (BEST, CLUSTERS)]
    return [
        str(len(losses[NONE])),
        f"{losses[NONE].mean():.3f}",
        ranged(interval(np.mean, gained[ALL]), 3),
        *map(percent, shares),
    ]


def rights(answers: Answers) -> list[str]:
    """Write how many answers are right, and how much greater the loss is with `clusters`."""
    counts = [sum(each.right for each in answers[one]) for one in SETTINGS]
    pairs = zip(answers[CLUSTERS], answers[ALL], strict=True)
    changes = torch.tensor([one.loss - other.loss for one, other in pairs])
    return [str(len(changes)), *map(str, counts), ranged(interval(np.mean, changes), 3)]


def dictionary(report: Path) -> str:
    """Write exact match of the dictionary task; that of `exact` is in the reports of quality."""
    reports = [report_of(QUALITY, "dense", f"dictionary-{keys}") for keys in ("best", "all")]
    columns = [qualities(each) for each in (*reports, report)]
    body = [
        [f"{tokens:,}", *(ranged(column[tokens], 3) for column in columns)] for tokens in columns[2]
    ]
    return table(["tokens of the dictionary", *map(str, (BEST, ALL, CLUSTERS))], body)


def percent(share: Figure) -> str:
    """Format a share and its interval."""
    return f"{share.value:.0%} ({share.low:.0%} to {share.high:.0%})"
