"""Prints what plugins offer, and the problems of plugins: for ``fotmem stores`` and ``models``."""

import json
from typing import Any

from rich.console import Console
from rich.markup import escape

from fotmem.plugin.registry import registry
from fotmem.plugin.specs import AdapterSpec, StoreSpec


def row(spec: StoreSpec | AdapterSpec) -> dict[str, Any]:
    """Return what the JSON says of a store or of an adapter."""
    return {
        "name": spec.name,
        "plugin": registry().owners[spec],
        "available": spec.available,
        "reason": spec.reason,
    }


def print_json(name: str, rows: list[dict[str, Any]]) -> None:
    """Print rows under a name, and the problems of plugins."""
    problems = [problem._asdict() for problem in registry().problems]
    print(json.dumps({name: rows, "problems": problems}, indent=2))


def print_problems(console: Console) -> None:
    """Print the problems of plugins, a line each."""
    for problem in registry().problems:
        console.print(
            f"[red]problem[/red] in plugin {escape(problem.plugin)}: {escape(problem.reason)}"
        )
