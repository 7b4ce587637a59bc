"""Runs fotmem's commands, each once, and puts the figures into pages."""

import hashlib
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from fotmem.errors import InputError
from fotmem.files import open_bytes
from fotmem.measure.evaluate.report import read_report, write_report

MEASURED = "measured"
"""Key in a report: its command and texts."""


def measured(file: Path, command: str, texts: list[str]) -> list[dict[str, Any]]:
    """Return the rows of a report; where there is none, run `fotmem eval` on these texts first."""
    if file.exists():
        check_report(file, command, texts)
    else:
        given = [word for text in texts for word in ("--text", text)]
        made = file.with_suffix(".made")
        evaluate([*shlex.split(command), *given], made)
        content = read_report(made) | {MEASURED: _measured(command, texts)}
        write_report(file, content)
        made.unlink()
    rows: list[dict[str, Any]] = existing(file)["rows"]
    return rows


def existing(file: Path) -> dict[str, Any]:
    """Read a report that was measured before.

    Raises
    ------
    InputError
        It cannot be read, or is no report.
    """
    try:
        return read_report(file)
    except InputError as error:
        raise InputError(f"{error}; remove it, and run again") from error


def check_report(file: Path, command: str, texts: list[str]) -> None:
    """Refuse a report of another command or of other texts, if there is one."""
    if not file.exists():
        return
    found, expected = existing(file).get(MEASURED) or {}, _measured(command, texts)
    if found != expected:
        kind = "command" if found.get("texts") == expected["texts"] else "text"
        sys.exit(f"{file} is the report of another {kind}: move it away to measure again")


def _measured(command: str, texts: list[str]) -> dict[str, Any]:
    """Say what a report is of: a text is known by its content."""
    return {"command": command, "texts": [sha256_of(Path(text)) for text in texts]}


def sha256_of(text: Path) -> str:
    """Return the SHA-256 of a file.

    Raises
    ------
    InputError
        It cannot be read.
    """
    with open_bytes(text) as file:
        return hashlib.sha256(file.read()).hexdigest()


def evaluate(words: list[str], file: Path, **options: Any) -> None:
    """Run `fotmem eval`; the report appears once it is complete. `options` are those of `run`."""
    part = file.with_suffix(".part")
    arguments = ["eval", *words, "--report", str(part)]
    print(f"fotmem {shlex.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", "fotmem", *arguments], check=True, **options)
    part.replace(file)


def by_tokens(rows: list[dict[str, Any]], *, memory: bool) -> dict[int, dict[str, Any]]:
    """Index rows by tokens in thousands of 1,024, as they were asked for."""
    return {row["tokens"] // 1024 * 1024: row for row in rows if row["memory"] == memory}


def fill(page: Path, marker: str, figures: str) -> None:
    """Put figures between two lines of a page that hold this marker."""
    before, _, after = page.read_text(encoding="utf-8").split(marker)
    page.write_text(f"{before}{marker}\n{figures}\n{marker}{after}", encoding="utf-8")


def table(head: list[str], body: list[list[str]]) -> str:
    """Write a Markdown table."""
    rows = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def share(row: dict[str, Any]) -> str:
    """Format exact match with its 95% interval."""
    return ranged((row["exact_match"], *row["exact_match_interval"]), 2)


def ranged(figure: tuple[float, ...], digits: int) -> str:
    """Format a figure with its interval."""
    value, low, high = (f"{each:.{digits}f}" for each in figure)
    return f"{value} ({low} to {high})"
