"""Measures with fotmem's own commands, each once: its report is kept."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any


def measured(file: Path, command: str, texts: list[str]) -> list[dict[str, Any]]:
    """Return the rows of a report; where there is none, run `fotmem eval` on these texts first."""
    if not file.exists():
        given = [word for text in texts for word in ("--text", text)]
        words = ["eval", *shlex.split(command), *given, "--report", str(file)]
        print(f"fotmem {shlex.join(words)}", flush=True)
        subprocess.run(
            [sys.executable, "-c", "from fotmem.cli import main; main()", *words], check=True
        )
    rows: list[dict[str, Any]] = json.loads(file.read_text())["rows"]
    return rows


def texts_given() -> list[str]:
    """Return the files named on the command line."""
    if not sys.argv[1:]:
        sys.exit("which text? It must not be trained on: give make TEXT=book.txt")
    return sys.argv[1:]
