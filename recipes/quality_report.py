"""Measures what the model makes of stores that find more or less, and fills in `docs/quality.md`.

Run by ``make report-quality TEXT=book.txt``, in hours; ``QUICK=1`` takes 20 minutes and has wide
intervals. Stopped, it goes on where it was: reports in ``build/quality`` are taken up.
"""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fotmem.evaluation.curves import QUALITIES, Curve, curves
from fotmem.evaluation.found import FIGURES
from fotmem.evaluation.plot import draw
from recipes.reports import fill, table, texts_given

PAGE, PICTURE = Path("docs/quality.md"), Path("docs/quality.png")
REPORT = Path("docs/benchmarks/quality.json")
MARKER = "<!-- figures, by make report-quality -->\n"
GRID: dict[str, dict[str, list[int]]] = {
    "exact": {},
    "faiss-ivf": {"nprobe": [1, 2, 4, 8, 16, 32]},
    "faiss-ivfpq": {"nprobe": [1, 4, 16, 64]},
    "hnsw": {"ef_search": [16, 32, 64, 128]},
}
"""From poor to as good as exact, so that curves have a beginning and an end."""
DICTIONARY = Path("build/dictionary")
"""What ``make recipe-dictionary`` trains; without it, no dictionary is looked up."""
QUICK = {
    "passkey": "passkey smollm2-fot --tokens 8k --trials 16 --readings 2 --stores {stores}",
    "perplexity": "perplexity smollm2-fot --tokens 8k --scored 2k --places 2 --stores {stores}",
    "dictionary": "dictionary {dictionary} --tokens 64k --queries 200 --stores {stores}",
}
FULL = {
    "passkey": "passkey smollm2-fot --tokens 16k,100k --trials 40 --readings 4 --stores {stores}",
    "perplexity": "perplexity smollm2-fot --tokens 16k,64k --places 4 --stores {stores}",
    "dictionary": "dictionary {dictionary} --tokens 256k,1M --stores {stores}",
}


def main(quick: bool, texts: list[str]) -> None:
    """Measure what is not measured yet, draw, and fill in the page."""
    folder = Path("build/quality-quick" if quick else "build/quality")
    folder.mkdir(parents=True, exist_ok=True)
    found: list[Curve] = []
    commands = []
    for task, command in (QUICK if quick else FULL).items():
        if task == "dictionary" and not DICTIONARY.exists():
            print(f"no dictionary: {DICTIONARY} is missing, make recipe-dictionary", flush=True)
            continue
        words = command.format(dictionary=DICTIONARY, stores=",".join(GRID))
        measure(words, folder / f"{task}.json", [] if task == "dictionary" else texts)
        found += curves(folder / f"{task}.json")
        commands.append(f"fotmem eval {words}")
    draw(found, PICTURE)
    rows = [row for curve in found for row in told(curve)]
    REPORT.write_text(json.dumps({"commands": commands, "rows": rows}, indent=1) + "\n")
    fill(PAGE, MARKER, figures(commands, found))


def measure(words: str, report: Path, texts: list[str]) -> None:
    """Run `fotmem eval`; it goes on with the report that is there."""
    grid = write_grid(report.parent / "grid.toml")
    given = [*(word for text in texts for word in ("--text", text)), "--grid", str(grid)]
    arguments = ["eval", *shlex.split(words), *given, "--report", str(report)]
    print(f"fotmem {shlex.join(arguments)}", flush=True)
    program = "from fotmem.cli import main; main()"
    subprocess.run([sys.executable, "-c", program, *arguments], check=True)


def write_grid(file: Path) -> Path:
    """Write the settings as `fotmem eval` takes them."""
    lines = []
    for store, options in GRID.items():
        lines += [f"[{store}]", *(f"{name} = {values}" for name, values in options.items())]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def told(curve: Curve) -> Iterator[dict[str, Any]]:
    """Yield what a curve says: its points, as data."""
    for point in curve.points:
        yield {
            "task": curve.task,
            "tokens": curve.tokens,
            "setting": str(point.setting),
            "quality": list(point.quality),
            "found": asdict(point.found),
        }


def figures(commands: list[str], found: list[Curve]) -> str:
    """Write which figure predicts best, how much is needed, and the commands."""
    body = []
    for curve in found:
        quality = curve.exact.quality.value if curve.exact else 0.0
        for figure, about in FIGURES.items():
            predicts, needed = curve.predicts(figure), curve.needed(figure)
            enough = "-"
            if needed is not None:
                low, high = needed.value[1:]
                enough = f"{needed.value.value:.3f} ({low:.3f} to {high:.3f})"
                if needed.is_bound:
                    enough = f"{needed.value.value:.3f} or worse"
            interval = f"{predicts.value:.2f} ({predicts.low:.2f} to {predicts.high:.2f})"
            name = f"{curve.task}, {curve.tokens:,} tokens: {QUALITIES[curve.task].name}"
            body.append([name, f"{quality:.3f}", about.name, interval, enough])
    head = ["task", "with `exact`", "figure", "predicts", "needed for 95%"]
    shown = "\n".join(f"$ {command}" for command in commands)
    return f"![curves](quality.png)\n\n{table(head, body)}\n```console\n{shown}\n```\n"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--quick"]:
        del sys.argv[1]
        main(quick=True, texts=texts_given())
    else:
        main(quick=False, texts=texts_given())
