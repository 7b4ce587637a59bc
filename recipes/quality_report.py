"""Measures the quality of answers with several stores, and fills in `docs/quality.md`.

Run by ``make report-quality TEXT=book.txt``: it takes hours; ``QUICK=1`` takes 20 minutes, with
smaller memories and wide intervals. Two commands run at a time, each on one core. A second run
continues a stopped one: reports that exist are not measured again. Delete those of an older model.
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from fotmem.measure.bench.figures import Figure
from fotmem.measure.evaluate.curves import QUALITIES, Curve, read_curves
from fotmem.measure.evaluate.dictionary import DictionaryRow
from fotmem.measure.evaluate.distraction import DistractionRow
from fotmem.measure.evaluate.distraction_plot import draw_distraction
from fotmem.measure.evaluate.passkey import PasskeyRow
from fotmem.measure.evaluate.plot import draw
from fotmem.measure.evaluate.report import read_report, rows_of
from fotmem.measure.evaluate.store_quality import FIGURES
from fotmem.measure.setting import Setting
from recipes.given_texts import texts_given
from recipes.reports import evaluate, fill, ranged, table
from recipes.smollm2_evaluations import ALIKE, BASE, TUNED
from recipes.stopping import run_recipe

PAGE, PICTURE = Path("docs/quality.md"), Path("docs/quality.png")
DISTRACTION = Path("docs/distraction.png")
REPORTS = Path("docs/benchmarks/quality")
BUILD = Path("build/quality")
"""For temporary files: output of commands, and the reports of the quick version."""
LOOKUP = "dictionary dictionary-fot --dtype bfloat16"
GRID: dict[str, dict[str, list[int]]] = {
    "exact": {},
    "faiss-ivf": {"nprobe": [1, 2, 4, 8, 16, 32]},
    "faiss-ivfpq": {"nprobe": [1, 4, 16, 64]},
    "hnsw": {"ef_search": [16, 32, 64, 128]},
}
"""From poor settings to settings as good as exact, so that curves are complete."""
COMPARED = f"--stores {','.join(GRID)}"
Commands = Mapping[str, str]
"""Arguments of `fotmem eval`, by name."""
Reports = Mapping[str, Path]
"""Report files, by the same names."""


def main(quick: bool, texts: list[str]) -> None:
    """Measure everything that is missing; draw, and fill in the page section by section."""
    folder = BUILD / "quick" if quick else REPORTS
    chosen = QUICK if quick else FULL
    with ThreadPoolExecutor(2) as pool:
        running = {
            section: [
                pool.submit(measure, words, report_of(folder, section, name), texts)
                for name, words in commands.items()
            ]
            for section, commands in chosen.items()
        }
        try:
            for section, commands in chosen.items():
                for each in running[section]:
                    each.result()
                    publish(section, commands, folder)
        except subprocess.CalledProcessError:  # the command has said why: no other one begins
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        except KeyboardInterrupt:  # or another signal
            pool.shutdown(wait=False, cancel_futures=True)
            for child in psutil.Process().children():
                child.terminate()
            raise


def report_of(folder: Path, section: str, name: str) -> Path:
    """Return the file for the report of a command."""
    return folder / f"{section}-{name.replace(', ', '-').replace(' ', '-')}.json"


def publish(section: str, commands: Commands, folder: Path) -> None:
    """Put the measured figures of a section into the page."""
    files = {name: report_of(folder, section, name) for name in commands}
    reports = {name: file for name, file in files.items() if file.exists()}
    text = {name: "" if commands[name].startswith(LOOKUP) else " --text FILE" for name in reports}
    words = "".join(f"$ fotmem eval {commands[name]}{text[name]}\n" for name in reports)
    fill(PAGE, marker(section), f"{WRITTEN[section](reports)}\n```console\n{words}```\n")


def marker(section: str) -> str:
    """Return the line before and after the figures of a section in the page."""
    return f"<!-- {section}, by make report-quality -->\n"


def measure(words: str, report: Path, texts: list[str]) -> None:
    """Run `fotmem eval` on one core, unless its report exists."""
    if report.exists():
        return
    for folder in (report.parent, BUILD):
        folder.mkdir(parents=True, exist_ok=True)
    arguments = shlex.split(words)
    if not words.startswith(LOOKUP):
        arguments += [word for text in texts for word in ("--text", text)]
    if COMPARED in words:
        arguments += ["--grid", str(write_grid(BUILD / f"{report.stem}.toml"))]
    begin, one_core = time.monotonic(), os.environ | {"OMP_NUM_THREADS": "1"}
    with (BUILD / f"{report.stem}.log").open("w") as log:
        evaluate(arguments, report, env=one_core, stdout=log, stderr=log)
    print(f"{report.stem}: {(time.monotonic() - begin) / 60:.0f} minutes", flush=True)


def write_grid(file: Path) -> Path:
    """Write the settings as a grid file of `fotmem eval`."""
    lines = []
    for store, options in GRID.items():
        lines += [f"[{store}]", *(f"{name} = {values}" for name, values in options.items())]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


# What the page says


def every_curve(reports: Reports) -> list[Curve]:
    """Return the curves of all tasks."""
    return [curve for file in reports.values() for curve in read_curves(file)]


def write_curves(reports: Reports) -> str:
    """Draw each task's largest memory; write the rank correlations and the needed values."""
    found = every_curve(reports)
    largest = {curve.task: curve for curve in found}
    draw(list(largest.values()), PICTURE)
    return f"![curves]({PICTURE.name})\n\n{predictions(found)}"


def predictions(found: list[Curve]) -> str:
    """Write the rank correlation of each figure, and how much of it is needed."""
    body = []
    for curve in found:
        quality = curve.exact.quality.value if curve.exact else 0.0
        for figure, about in FIGURES.items():
            predicts, needed = curve.predicts(figure), curve.needed(figure)
            enough = "-"
            if needed is not None:
                enough = ranged(needed.value, 3)
                if needed.is_bound:
                    enough = f"{needed.value.value:.3f} or worse"
            name = f"{curve.task}, {curve.tokens:,} tokens: {QUALITIES[curve.task].name}"
            body.append([name, f"{quality:.3f}", about.name, ranged(predicts, 2), enough])
    return table(["task", "with `exact`", "figure", "predicts", "needed for 95%"], body)


def write_dense(reports: Reports) -> str:
    """Write the quality of answers with the k best keys, and with all keys."""
    body = []
    for name in reports:
        asked, _, keys = name.partition("-")
        if keys == "all" or f"{asked}-all" not in reports:
            continue
        content = read_report(reports[name])
        task, model = content["task"], f"`{content['options']['model']}`"
        best, every = (qualities(reports[f"{asked}-{keys}"]) for keys in ("best", "all"))
        for tokens, quality in best.items():
            about = f"{task}, {tokens:,} tokens: {QUALITIES[task].name}"
            body.append([model, about, ranged(quality, 3), ranged(every[tokens], 3)])
    return table(["model", "task", "the k best keys", "all keys"], body)


def qualities(report: Path) -> dict[int, Figure]:
    """Return the quality of answers by tokens."""
    content = read_report(report)
    quality = QUALITIES[content["task"]]
    rows = rows_of(content, quality.kind, report)
    return {row.tokens: quality.of(row) for row in rows if row.store is not None}


def write_large(reports: Reports) -> str:
    """Write the quality of answers with large memories, and their cost."""
    passkeys, dictionaries = [], []
    for report in reports.values():
        content = read_report(report)
        options = dict(option.split("=") for option in content["options"]["option"])
        quality = QUALITIES[content["task"]]
        rows = rows_of(content, quality.kind, report)
        plain = {
            row.tokens: row.seconds_per_token
            for row in rows
            if isinstance(row, PasskeyRow) and row.store is None
        }
        for row in rows:
            if row.store is None:
                continue
            setting = f"`{Setting(store=row.store, options=options)}`"
            head = [f"{row.tokens:,}", setting, ranged(quality.of(row), 3)]
            if isinstance(row, PasskeyRow):
                times = (row.seconds_per_token, plain[row.tokens])
                passkeys.append([*head, *(f"{1000 * (time or 0):.0f} ms" for time in times)])
            elif isinstance(row, DictionaryRow):
                cost = f"{1000 * row.seconds_per_query:.1f} ms"
                ram = "" if row.ram is None else f"{row.ram / 2**30:.1f} GiB"
                dictionaries.append([*head, cost, ram, f"{row.tokens_per_second:,.0f}"])
    tables = (
        (
            ["tokens", "pass key: store", "exact match", "latency", "latency without memory"],
            passkeys,
        ),
        (
            ["tokens", "dictionary: store", "exact match", "latency", "RAM", "tokens/s read"],
            dictionaries,
        ),
    )
    return "\n".join(table(head, body) for head, body in tables if body)


def write_distraction(reports: Reports) -> str:
    """Draw and write the attention on the right document, before and after tuning."""
    rows = {
        name: rows_of(read_report(file), DistractionRow, file) for name, file in reports.items()
    }
    draw_distraction(rows, DISTRACTION)
    body = [
        [
            f"{some[0].documents}",
            f"{some[0].uniform:.3f}",
            *(ranged(row.right_document_weighted, 3) for row in some),
        ]
        for some in zip(*rows.values(), strict=True)
    ]
    return f"![distraction]({DISTRACTION.name})\n\n{table(['documents', 'by chance', *rows], body)}"


WRITTEN = {
    "large": write_large,
    "curves": write_curves,
    "dense": write_dense,
    "distraction": write_distraction,
}
"""The function that writes each section."""


def best_and_all(**tasks: str) -> dict[str, str]:
    """Return commands for attention to the k best keys, and to all keys."""
    return {
        f"{task}-{keys}": f"{words}{option}"
        for task, words in tasks.items()
        for keys, option in (("best", ""), ("all", " --top-k all"))
    }


def before_and_after(documents: int) -> dict[str, str]:
    """Return commands that search for texts and for facts, before and after tuning."""
    words = f"--documents {documents} --queries 64"
    before, after = f"distraction {ALIKE} {words}", f"distraction {TUNED} {words}"
    return {
        "text, before tuning": before,
        "text, after tuning": after,
        "facts, before tuning": f"{before} --facts",
        "facts, after tuning": f"{after} --facts",
    }


QUICK: dict[str, Commands] = {
    "curves": {
        "passkey": f"passkey {TUNED} --passages 0 --tokens 8k --trials 16 --readings 2 {COMPARED}",
        "perplexity": f"perplexity {TUNED} --tokens 8k --scored 2k --places 2 {COMPARED}",
        "dictionary": f"{LOOKUP} --tokens 64k --queries 200 {COMPARED}",
    },
    "dense": best_and_all(
        passkey=f"passkey {TUNED} --passages 0 --tokens 16k --trials 16 --readings 2",
        passkey_untuned=f"passkey {BASE} --passages 0 --tokens 4k --trials 16 --readings 2",
        dictionary=f"{LOOKUP} --tokens 64k,256k --queries 200",
    ),
    "distraction": before_and_after(8),
    "large": {
        "dictionary-faiss-ivf": f"{LOOKUP} --tokens 1M --store faiss-ivf",
    },
}
INDEXED = (
    "--trials 20 --readings 1 --store faiss-ivf "
    "--option nlist=256 --option nprobe=32 --option keys=mmap --option values=mmap"
)
"""Few lists: each trial builds its index anew, which is fastest with few lists."""
FULL: dict[str, Commands] = {
    "large": {
        "passkey": f"passkey {TUNED} --passages 0 --tokens 100k,256k {INDEXED}",
        "passkey-1M": f"passkey {TUNED} --passages 0 --tokens 1M {INDEXED}",
        "dictionary-exact": f"{LOOKUP} --tokens 16M --store exact",
        "dictionary-faiss-ivf": f"{LOOKUP} --tokens 16M --store faiss-ivf --option nprobe=64",
        "dictionary-faiss-ivfpq": f"{LOOKUP} --tokens 16M --store faiss-ivfpq --option nprobe=128",
        "dictionary-64M": f"{LOOKUP} --tokens 64M --store faiss-ivfpq --option nprobe=128 "
        "--option keys=mmap --option values=mmap",
    },
    "curves": {
        "passkey": f"passkey {TUNED} --passages 0 --tokens 16k --trials 40 --readings 4 {COMPARED}",
        "perplexity": f"perplexity {TUNED} --tokens 16k,64k --places 4 {COMPARED}",
        "dictionary": f"{LOOKUP} --tokens 256k,1M {COMPARED}",
    },
    "dense": best_and_all(
        passkey=f"passkey {TUNED} --passages 0 --tokens 16k,100k --trials 40 --readings 2",
        passkey_untuned=f"passkey {BASE} --passages 0 --tokens 4k,16k --trials 40 --readings 4",
        perplexity=f"perplexity {TUNED} --tokens 16k,64k --places 4",
        dictionary=f"{LOOKUP} --tokens 256k,1M",
    ),
    "distraction": before_and_after(64),
}


if __name__ == "__main__":
    is_quick = sys.argv[1:2] == ["--quick"]
    if is_quick:
        del sys.argv[1]
    run_recipe(lambda: main(is_quick, texts_given()))
