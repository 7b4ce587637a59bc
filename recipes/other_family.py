"""Trains a tiny Qwen2 from scratch, and tunes it with the commands that tune SmolLM2.

It shows that the recipe does not depend on one family of models. Run by ``make recipe-other-family
TEXTS=FOLDER``, the folder of ``make texts``; finished parts are not repeated, and the page on
training gets the figures. It takes some 50 minutes of one core.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from fotmem.training.checkpoints import last_checkpoint
from recipes.given_texts import texts_of
from recipes.other_family_model import make_model
from recipes.reports import fill, measured, ranged, share, table
from recipes.smollm2_report import rows_of
from recipes.stopping import run_recipe
from recipes.text_tables import Reports

BUILD = Path("build/other-family")
TEXT = "test/narrative.txt"
"""The text to measure on, in the folder of texts."""
PAGE = Path("docs/training.md")
FIGURES = "<!-- figures, by make recipe-other-family -->\n"
TRAIN = "--window 256 --windows 4 --documents 2 --steps 200 --evaluate-every 50 --bf16"
ALIKE = "--distance 512 --decay 0.7"
"""How the memory of the untuned model is attached: as that of the tuned one."""
MEASURED = {
    "facts-context": "facts {} --passages 0 --tokens 768 --facts 12 --beside context",
    "facts-4k": "facts {} --passages 0 --tokens 4k",
    "facts-16k": "facts {} --passages 0 --tokens 16k --facts 128",
    "facts-64k": "facts {} --passages 0 --tokens 64k --facts 128",
    "passkey-context": "passkey {} --passages 0 --tokens 768 --beside context",
    "passkey": "passkey {} --passages 0 --tokens 4k,16k --readings 4",
    "perplexity": "perplexity {} --tokens 4k,16k",
}
"""Commands of `fotmem eval`."""

LONGER = {"facts": ("facts-4k", "facts-16k", "facts-64k"), "passkey": ("passkey",)}
"""The evaluations of each task in a memory."""


def main(texts: Path) -> None:
    """Do everything that is missing; write the table."""
    base, tuned = BUILD / "base", BUILD / "tuned"
    training = texts_of(texts / "training")
    if not (base / "config.json").exists():
        make_model(training, base)
    if not (tuned / "memory.json").exists():
        tune(base, training, tuned)
    given = [str(texts / TEXT)]
    untuned = measure(f"{base} {ALIKE} --layers {layers(base)}", BUILD / "untuned", given)
    fill(PAGE, FIGURES, figures(untuned, measure(str(tuned), BUILD / "measured", given)))


def tune(base: Path, data: list[Path], tuned: Path) -> None:
    """Tune a model; a second call continues a stopped training."""
    given = [word for text in data for word in ("--data", str(text))]
    resume = ["--resume"] if last_checkpoint(tuned) else []
    words = ["train", str(base), *given, "--output", str(tuned), "--layers", layers(base)]
    run([*words, *TRAIN.split(), *resume])


def layers(base: Path) -> str:
    """Return the layers that `fotmem layers` proposes, as an option takes them."""
    file = base / "layers.json"
    if not file.exists():
        file.write_text(run(["layers", str(base), "--json"]))
    return ",".join(map(str, json.loads(file.read_text())["memory_layers"]))


def run(words: list[str]) -> str:
    """Run `fotmem`, and return what it prints."""
    print(f"fotmem {' '.join(words)}", flush=True)
    command = [sys.executable, "-m", "fotmem", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def measure(model: str, reports: Path, texts: list[str]) -> Reports:
    """Run each evaluation of a model that has no report yet; return the rows of all."""
    reports.mkdir(parents=True, exist_ok=True)
    for name, command in MEASURED.items():
        measured(reports / f"{name}.json", command.format(model), texts)
    return {name: rows_of(reports / f"{name}.json") for name in MEASURED}


def figures(untuned: Reports, tuned: Reports) -> str:
    """Put the figures of both models into a table."""
    columns = [dict(cells(reports)) for reports in (untuned, tuned)]
    body = [[label, *(column[label] for column in columns)] for label in columns[0]]
    return table(["", "untuned", "tuned"], body)


def cells(reports: Reports) -> Iterator[tuple[str, str]]:
    """Yield the cells of a model's column, each with the label of its row."""
    for task, label in (("facts", "facts"), ("passkey", "pass key")):
        for row in reports[f"{task}-context"]:
            if row.get("way") == "context":
                score = ranged((row["score"], *row["score_interval"]), 2)
                yield f"{label}, {row['tokens']:,} tokens in the context", score
        longer = [row for name in LONGER[task] for row in reports[name]]
        for row in longer:
            if row["memory"] and row.get("kind", "all") == "all":
                yield f"{label}, {row['tokens']:,} tokens in memory", share(row)
    for row in reports["perplexity"]:
        if not row["sliding"]:
            held = f"{row['tokens']:,} tokens in memory" if row["memory"] else "no memory"
            yield f"perplexity, {held}", f"{row['perplexity']:.2f}"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("which texts? Run make texts, and give make TEXTS=build/texts")
    run_recipe(lambda: main(Path(sys.argv[1])))
