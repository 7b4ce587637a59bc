"""Measures ``smollm2-fot`` beside its base model, and draws accuracy against length.

Run by ``make report-smollm2 TEXT=FILE``, with text that was not trained on; reports that exist are
not measured again. On two cores it takes about an hour.
"""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

REPORTS = Path("docs/reports")
PICTURE = Path("docs/passkey.png")
MEASURED = {
    "passkey-tuned": "passkey smollm2-fot --tokens 4k,16k,64k,100k,256k --readings 1 --trials 20",
    "passkey-base": "passkey smollm2 --layers 17,18,20,21,23 --tokens 4k,16k,64k --readings 1",
    "passkey-tuned-dense": "passkey smollm2-fot --tokens 4k,16k,64k --readings 1 --top-k all",
    "facts-tuned": "facts smollm2-fot --tokens 16k --facts 32",
    "perplexity-tuned": "perplexity smollm2-fot --tokens 4k,16k,64k",
    "perplexity-base": "perplexity smollm2 --layers 17,18,20,21,23 --tokens 4k,16k,64k",
    "passkey-attend": "passkey smollm2-fot --tokens 4k --trials 20 --attend",
    "perplexity-attend": "perplexity smollm2-fot --tokens 4k,16k --attend",
}
CURVES = (
    ("passkey-base", False, "without memory", "o:k"),
    ("passkey-base", True, "base model, with memory", "s--C1"),
    ("passkey-tuned-dense", True, "tuned, with memory, all of it", "^--C0"),
    ("passkey-tuned", True, "tuned, with memory, top-k 16", "o-C0"),
)


def main(texts: list[str]) -> None:
    """Measure what is not measured yet, then draw."""
    if not texts:
        sys.exit("which text? It must not be trained on: make report-smollm2 TEXT=book.txt")
    for name, command in MEASURED.items():
        file = REPORTS / f"{name}.json"
        if not file.exists():
            given = [word for text in texts for word in ("--text", text)]
            words = ["eval", *shlex.split(command), *given, "--report", str(file)]
            print(f"fotmem {shlex.join(words)}", flush=True)
            program = [sys.executable, "-c", "from fotmem.cli import main; main()"]
            subprocess.run([*program, *words], check=True)
    draw()


def draw() -> None:
    """Draw whole answers right against tokens, with 95% intervals."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, memory, label, style in CURVES:
        rows = [row for row in _rows(name) if row["memory"] == memory]
        right = [row["answer_accuracy"] for row in rows]
        spread = [
            [row["answer_accuracy"] - row["answer_interval"][0] for row in rows],
            [row["answer_interval"][1] - row["answer_accuracy"] for row in rows],
        ]
        tokens = [row["tokens"] for row in rows]
        axes.errorbar(tokens, right, [[max(0.0, x) for x in xs] for xs in spread], fmt=style,
                      label=label, capsize=3)  # fmt: skip
    axes.set(
        xscale="log", xlabel="tokens of text", ylabel="whole pass keys right", ylim=(-0.04, 1.04)
    )
    ticks = sorted({row["tokens"] for name, *_ in CURVES for row in _rows(name)})
    axes.set_xticks(ticks, [f"{round(tick / 1024)}k" for tick in ticks])
    axes.minorticks_off()
    axes.legend(loc="center left")
    axes.set_title("SmolLM2-135M, window 512: a five-digit number in the King James Bible")
    figure.savefig(PICTURE, dpi=120)


def _rows(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((REPORTS / f"{name}.json").read_text())["rows"]
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])
