"""Measures ``smollm2-fot`` on texts that nothing was chosen on; fills in its card and the README.

Run by ``make report-smollm2 TEXTS=FOLDER``: each ``.txt`` file of the folder is a text, such as the
test texts of ``make texts``. It takes some 32 hours of one core; ``ONLY=passkey,facts`` runs
some evaluations, ``QUICK=1`` measures less. The pages get the figures of the test texts, all of
them and unchanged; tables of other texts, and quick ones, are printed. Reports that exist are not
measured again; those of another adapter, text or command are refused.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

from fotmem.files import read_text
from fotmem.models.load import load_model
from fotmem.models.tokens import token_ids
from recipes.given_texts import texts_of
from recipes.reports import check_report, existing, fill, measured, sha256_of
from recipes.smollm2 import SHIPPED
from recipes.smollm2_evaluations import EVALUATIONS, Evaluation, seed_of
from recipes.smollm2_picture import draw
from recipes.stopping import run_recipe
from recipes.text_tables import TABLES, Reports, Rows, tables
from recipes.texts.making import NOTES, notes

Evaluations = Mapping[str, Evaluation]

FIGURES = "<!-- figures, by make report-smollm2 -->\n"
REPORTS = SHIPPED / "texts"
OTHER_REPORTS = Path("build/report-smollm2")
"""Of other texts, and quick ones."""
PAGES = {
    SHIPPED / "README.md": TABLES,
    Path("README.md"): [each for each in TABLES if {"passkey", "perplexity"} & {*each.evaluations}],
}
"""The tables of each page."""
QUICK = {name: each.quickened() for name, each in EVALUATIONS.items() if each.quick}


class Run(NamedTuple):
    """An evaluation of a text with one length."""

    text: Path
    name: str
    length: str


def main(folder: Path, *, quick: bool = False, only: str = "") -> None:
    """Measure everything without a report, or only some evaluations; draw; fill in the pages."""
    texts = texts_of(folder)
    is_shown = not quick and are_test_texts(texts)
    reports = REPORTS if is_shown else OTHER_REPORTS / ("quick" if quick else "whole")
    evaluations = QUICK if quick else EVALUATIONS
    names = [text.stem for text in texts]
    collected(reports, evaluations, names)  # a damaged one is refused now, not after hours
    planned = runs(texts, named(only, evaluations))
    check_adapter(reports)
    failed = measure(planned, evaluations, reports)
    found = collected(reports, evaluations, names)
    if not is_shown:
        print(tables(found, evaluations))
    else:
        shutil.copyfile(folder.parent / NOTES, reports / NOTES)
        draw(found)
        for page, shown in PAGES.items():
            if written := tables(found, evaluations, shown):
                fill(page, FIGURES, described(found, reports) + "\n" + written)
    if failed:
        sys.exit(f"these failed, and can be run again: {', '.join(failed)}")


def named(only: str, evaluations: Evaluations) -> Evaluations:
    """Return the evaluations with these names; all, if there are none."""
    names = only.split(",") if only else list(evaluations)
    if unknown := [name for name in names if name not in evaluations]:
        sys.exit(
            f"{', '.join(map(repr, unknown))} cannot be measured: give names, with commas and no "
            f"spaces between them, of {', '.join(evaluations)}"
        )
    return {name: evaluations[name] for name in names}


def are_test_texts(texts: Sequence[Path]) -> bool:
    """Whether these are the test texts of ``make texts``: all of them, and unchanged."""
    known = {
        name.removeprefix("test/"): made.sha256
        for name, made in notes(texts[0].parent.parent).items()
        if name.startswith("test/")
    }
    return known == {text.stem: sha256_of(text) for text in texts}


def check_adapter(reports: Path) -> None:
    """Refuse reports that another adapter was measured in."""
    digest = hashlib.sha256()
    for name in ("adapter_model.safetensors", "memory.json"):
        digest.update((SHIPPED / name).read_bytes())
    made, this = reports / "adapter.sha256", digest.hexdigest()
    reports.mkdir(parents=True, exist_ok=True)
    if not made.exists():
        made.write_text(f"{this}\n", encoding="utf-8")
    elif made.read_text(encoding="utf-8").strip() != this:
        sys.exit(f"the reports in {reports} are of another adapter: remove that folder")


def runs(texts: Sequence[Path], evaluations: Evaluations) -> list[Run]:
    """Return what there is to measure: each length of all texts that have it, quickest first."""
    _, tokenizer = load_model("smollm2")
    tokens = {text: len(token_ids(tokenizer, read_text(text))) for text in texts}
    found = [
        Run(text, name, length)
        for name, evaluation in evaluations.items()
        for length, text in product(evaluation.lengths, texts)
        if evaluation.needed(length) <= tokens[text]
        and (not evaluation.questions or Path(evaluation.questions.format(text.stem)).exists())
    ]
    if not found:
        least = min(each.needed(length) for each in evaluations.values() for length in each.lengths)
        files = {each.questions.format("NAME") for each in evaluations.values()}
        asked = "" if "" in files else f" and a file of questions ({', '.join(files)})"
        sys.exit(
            f"no text in {texts[0].parent} can be measured: the longest has "
            f"{max(tokens.values()):,} tokens, and a text NAME.txt needs {least:,}{asked}"
        )
    return sorted(found, key=lambda run: evaluations[run.name].seconds(run.length))


def measure(planned: Sequence[Run], evaluations: Evaluations, reports: Path) -> list[str]:
    """Measure what has no report yet, and say before how long it takes; return what failed."""
    files = {run: report_of(reports, run.text.stem, run.name, run.length) for run in planned}
    words = {
        run: evaluations[run.name].words(run.length, run.text.stem, seed_of(run.text.stem))
        for run in planned
    }
    for run, file in files.items():
        check_report(file, words[run], [str(run.text)])
    missing = [run for run, file in files.items() if not file.exists()]
    hours = sum(evaluations[run.name].seconds(run.length) for run in missing) / 3600
    print(f"{len(missing)} of {len(planned)} reports are missing: about {hours:.1f} hours")
    failed = []
    for run in missing:
        files[run].parent.mkdir(parents=True, exist_ok=True)
        try:
            measured(files[run], words[run], [str(run.text)])
        except subprocess.CalledProcessError:  # the command has said why; others may succeed
            failed.append(f"{run.name} {run.length} of {run.text.stem}")
    return failed


def report_of(reports: Path, text: str, name: str, length: str) -> Path:
    """Return the file of a report."""
    return reports / text / f"{name}-{length.replace(',', '-')}.json"


def collected(reports: Path, evaluations: Evaluations, texts: Iterable[str]) -> dict[str, Reports]:
    """Read the reports of texts; there may be none of an evaluation."""
    found: dict[str, Reports] = {}
    for text in texts:
        found[text] = {
            name: [
                row
                for length in evaluation.lengths
                if (file := report_of(reports, text, name, length)).exists()
                for row in rows_of(file)
            ]
            for name, evaluation in evaluations.items()
        }
    return found


def rows_of(file: Path) -> Rows:
    """Return the rows of a report, and those of other ways to answer."""
    report = existing(file)
    return [*report["rows"], *report.get("beside", [])]


def described(texts: Iterable[str], reports: Path) -> str:
    """List the texts with the packages that `make texts` made them of."""
    known, lines = notes(reports), []
    for text in texts:
        made = known[f"test/{text}"]
        packages = ", ".join(f"{name} {version}" for name, version in made.versions.items())
        lines.append(f"- `{text}`: {packages}; SHA-256 {made.sha256[:12]}\n")
    return "".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m recipes.smollm2_report")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("build/texts/test"))
    parser.add_argument("--quick", action="store_true", help="measure less, and print tables")
    parser.add_argument("--only", default="", help="names of evaluations, such as passkey,facts")
    run_recipe(lambda: main(**vars(parser.parse_args())))
