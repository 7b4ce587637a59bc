"""Measures a tuned model on the choosing texts, with several decays, temperatures and top k.

Run by ``make choose TUNED=FOLDER SETTINGS="decay=0.5 decay=17:1,18:0.5,top_k=all"``; what a setting
does not name is the model's own. Every text is read once for all settings. What the untuned model
loses on the texts is measured in the first run, and kept in ``build/choosing``.
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
from fotmem.arguments import PASSAGES
from fotmem.cli.options import parse_decay
from fotmem.files import read_text
from fotmem.measure.bench.figures import Figure
from fotmem.measure.evaluate.questions.question_file import read_questions
from fotmem.measure.evaluate.questions.text_pieces import cut
from fotmem.measure.evaluate.report import report, write_report
from fotmem.models.load import load_model
from fotmem.models.tokens import token_ids
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
    scored_text,
)
from recipes.choosing_tables import figures, tables
from recipes.given_texts import texts_of
from recipes.hard_text import make_hard_text
from recipes.stopping import run_recipe

TEXTS, BUILD = Path("build/texts/choosing"), Path("build/choosing")
QUESTIONS = Path("recipes/questions/choosing")
PIECE = 8192
"""Tokens that are read for natural questions."""
SEED = 0
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
    model, tokenizer = load_model(name, dtype=torch.bfloat16)
    with fotmem.attach(model, window=WINDOW) as memory:
        settings = [complete(memory, each) for each in given]
        found = measured(model, tokenizer, memory, files, settings)
    options = {"model": name, "texts": str(folder), "window": WINDOW, "seed": SEED}
    rows = [
        Row(setting, figures(scores), scores._asdict())
        for setting, scores in zip(settings, found, strict=True)
    ]
    write_report(file, report("choosing", options, rows))
    for setting, scores in zip(settings, found, strict=True):
        print(tables(setting, scores, found[0]))
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
    """Return a setting with all its options, checked; others are those of the memory."""
    chosen = {"passages": PASSAGES, **given}
    options = replace(memory.options, **{name: chosen[name] for name in LOOKS if name in chosen})
    return {name: getattr(options, name) for name in LOOKS} | {"passages": chosen["passages"]}


def measured(
    model: Any,
    tokenizer: Any,
    memory: fotmem.Memory,
    files: Sequence[Path],
    settings: Sequence[Setting],
) -> list[Scores]:
    """Return the scores of each setting."""
    begin = time.process_time()

    def note(done: str) -> None:
        print(f"{time.process_time() - begin:4.0f} seconds: {done}", file=sys.stderr, flush=True)

    contents = {each.stem: read_text(each) for each in files}
    ids = {kind: token_ids(tokenizer, text) for kind, text in contents.items()}
    texts = {kind: scored_text(each) for kind, each in ids.items()}
    parts = [torch.tensor(part) for each in texts.values() for two in each.parts for part in two]
    base = base_losses(texts, BUILD / f"smollm2-{digest(parts)[:16]}.safetensors")
    note("the untuned model")
    hard = make_hard_text(tokenizer, ids, SEED)
    found = [Scores(answers, {}, {}) for answers in score_hard_text(model, memory, hard, settings)]
    note("hard text")
    looks: list[Setting] = []  # passages change nothing about text
    for setting in settings:
        if (look := {name: setting[name] for name in LOOKS}) not in looks:
            looks.append(look)
    for kind, text in texts.items():
        cost, shares = score_text(model, memory, text, base[kind], looks)
        for scores, setting in zip(found, settings, strict=True):
            share = shares[looks.index({name: setting[name] for name in LOOKS})]
            scores.shares[kind], scores.costs[kind] = share, cost
        note(kind)
    pieces = [
        piece
        for kind, text in contents.items()
        if (asked := QUESTIONS / f"{kind}.jsonl").exists()
        for piece in cut(tokenizer, text, read_questions(asked), tokens=PIECE, seed=SEED)
    ]
    answered = score_questions(model, tokenizer, memory, pieces, settings)
    for scores, answers in zip(found, answered, strict=True):
        scores.answers.update(answers)
    note("natural questions")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m recipes.choosing")
    parser.add_argument("--texts", type=Path, default=TEXTS)
    parser.add_argument("--report", type=Path)
    parser.add_argument("model", help="a tuned model's folder, or a name such as smollm2-fot")
    parser.add_argument("settings", nargs="*", type=parsed, help="such as decay=0.5,top_k=all")
    chosen = parser.parse_args()
    file = chosen.report or BUILD / f"{Path(chosen.model).name}.json"
    run_recipe(lambda: main(chosen.model, chosen.texts, chosen.settings or [{}], file))
