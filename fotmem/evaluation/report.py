"""Writes down what was measured, on what, and with what."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("fotmem", "torch", "transformers", "peft", "faiss-cpu", "hnswlib", "zarr")


def report(task: str, options: dict[str, Any], rows: Sequence[Any]) -> dict[str, Any]:
    """Collect the rows of a task with its options, the machine and the versions."""
    import torch

    return {
        "task": task,
        "options": options,
        "rows": [asdict(row) for row in rows],
        "machine": {
            "platform": platform.platform(),
            "processor": processor(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            "threads": torch.get_num_threads(),
            "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "versions": {"python": platform.python_version()} | versions(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write_report(file: Path, content: dict[str, Any]) -> None:
    """Write a report as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """Return the processor's name, if the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")
