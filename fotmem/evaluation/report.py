"""Writes down what was measured, on what, and with what."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fotmem.machine import machine, versions


def report(task: str, options: dict[str, Any], rows: Sequence[Any]) -> dict[str, Any]:
    """Collect the rows of a task with its options, the machine and the versions."""
    return {
        "task": task,
        "options": options,
        "rows": [asdict(row) for row in rows],
        "machine": machine(),
        "versions": versions(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write_report(file: Path, content: dict[str, Any]) -> None:
    """Write a report as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
