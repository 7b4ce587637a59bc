"""Measures a tuned model on the choosing texts, with several decays, temperatures and top k.

Run by ``make choose TUNED=FOLDER SETTINGS="decay=0.5 decay=17:1,18:0.5,top_k=all"``; what a setting
does not name is the model's own. Every text is read once for all settings. What the untuned model
loses on the texts is measured in the first run, and kept in ``build/choosing``. So is the
report, named by the whole path of the model: ``exp-tuned.json`` of ``exp/tuned``; a later one of
the same model takes its place.
"""

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import typer

import fotmem
from fotmem.arguments import PASSAGES, checked_integer
from fotmem.cli.options import parse_decay
from fotmem.measure.bench.figures import Figure
from fotmem.measure.evaluate.report import report, write_report
from fotmem.memory.options import check_decay_layers
from fotmem.models.load import load_model
from fotmem.outputs import check_file
from fotmem.training.checkpoints import digest
from recipes.choosing_scores import (
    LOOKS,
    WINDOW,
    Scores,
    Setting,
    base_losses,
    score_hard_text,
    score_questions,
    score_text,
)
from recipes.choosing_tables import figures, tables
from recipes.choosing_texts import SEED, Asked, asked_of
from recipes.given_texts import texts_of
from recipes.stopping import run_recipe

TEXTS, BUILD = Path("build/texts/choosing"), Path("build/choosing")
SETTING: dict[str, Callable[[str], Any]] = {
    "decay": parse_decay,
    "temperature": float,
    "top_k": lambda value: None if value == "all" else int(value),
    "passages": int,
}
"""Options of a setting, and how to read them."""


@dataclass(frozen=True)
class Row:
    """What is reported of a setting."""

    setting: Setting
    figures: dict[str, dict[str, Figure]]
    """The means of `scores`."""
    scores: dict[str, dict[str, list[float]]]
    """In all settings, and for all models, of the same questions and windows."""


def main(name: str, folder: Path, given: Sequence[Setting], file: Path) -> None:
    """Measure all settings, print tables of each, and write the report."""
    files = texts_of(folder)
    check_file(file, inputs=files)
    model, tokenizer = load_model(name, dtype=torch.bfloat16)
    with fotmem.attach(model, window=WINDOW) as memory:
        settings = [complete(memory, each) for each in given]
        found = measured(model, tokenizer, memory, asked_of(tokenizer, files), settings)
    for setting, scores in zip(settings, found, strict=True):
        print(tables(setting, scores, found[0]))
    options = {"model": name, "texts": str(folder), "window": WINDOW, "seed": SEED}
    rows = [
        Row(setting, figures(scores), scores._asdict())
        for setting, scores in zip(settings, found, strict=True)
    ]
    write_report(file, report("choosing", options, rows))
    print(f"the report is in {file}")


def parsed(words: str) -> Setting:
    """Read a setting, such as ``decay=0.5,top_k=all``.

    Raises
    ------
    argparse.ArgumentTypeError
        It names something else, or a value is no number.
    """
    pairs = [word.partition("=") for word in re.split(r",(?=[a-z_]+=)", words)]
    try:
        return {name: SETTING[name](value) for name, _, value in pairs}
    except (KeyError, ValueError, typer.BadParameter) as error:
        raise argparse.ArgumentTypeError(
            f"expected one or more of {', '.join(SETTING)}, such as decay=0.5,top_k=all; "
            f"got {words!r}"
        ) from error


def complete(memory: fotmem.Memory, given: Setting) -> Setting:
    """Return a setting with all its options, checked; others are those of the memory.

    Raises
    ------
    OptionError, LayerError
        An option is out of range, or a layer of the decay has no memory.
    """
    options = replace(memory.options, **{name: given[name] for name in LOOKS if name in given})
    check_decay_layers(options.decay, memory.layers)
    passages = checked_integer("passages", given.get("passages", PASSAGES), least=0)
    return {name: getattr(options, name) for name in LOOKS} | {"passages": passages}


def measured(
    model: Any,
    tokenizer: Any,
    memory: fotmem.Memory,
    asked: Asked,
    settings: Sequence[Setting],
) -> list[Scores]:
    """Return the scores of each setting."""
    begin = time.process_time()

    def note(done: str) -> None:
        print(f"{time.process_time() - begin:4.0f} seconds: {done}", file=sys.stderr, flush=True)

    every = [part for text in asked.texts.values() for each in text.parts for part in each]
    known = BUILD / f"smollm2-{digest(map(torch.tensor, every))[:16]}.safetensors"
    base = base_losses(asked.texts, known)
    note("the untuned model")
    answered = score_hard_text(model, memory, asked.hard, settings)
    found = [Scores(answers, {}, {}) for answers in answered]
    note("hard text")
    looks = [{name: setting[name] for name in LOOKS} for setting in settings]
    different = [look for place, look in enumerate(looks) if look not in looks[:place]]
    for kind, text in asked.texts.items():
        cost, shares = score_text(model, memory, text, base[kind], different)
        for scores, look in zip(found, looks, strict=True):
            scores.costs[kind] = cost
            if shares:
                scores.shares[kind] = shares[different.index(look)]
        note(kind if shares else f"{kind}: full attention saves nothing, so there is no share")
    if asked.pieces:
        answered = score_questions(model, tokenizer, memory, asked.pieces, settings)
        for scores, answers in zip(found, answered, strict=True):
            scores.answers.update(answers)
        note("natural questions")
    return found


def report_of(model: str) -> Path:
    """Return the file of a model's report: its path, with dashes in place of slashes."""
    return BUILD / f"{Path(model).as_posix().strip('/').replace('/', '-')}.json"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m recipes.choosing")
    parser.add_argument("--texts", type=Path, default=TEXTS)
    parser.add_argument("--report", type=Path)
    parser.add_argument("model", help="a tuned model's folder, or a name such as smollm2-fot")
    parser.add_argument("settings", nargs="*", type=parsed, help="such as decay=0.5,top_k=all")
    chosen = parser.parse_args()
    file = chosen.report or report_of(chosen.model)
    run_recipe(lambda: main(chosen.model, chosen.texts, chosen.settings or [{}], file))
