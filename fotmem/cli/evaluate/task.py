"""What all evaluations have in common: they read options, show progress, and report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import track

from fotmem.cli.options import (
    load_quietly,
    parse_layers,
    parse_store,
    parse_stores,
    parse_top_k,
    read_texts,
)
from fotmem.errors import require_packages
from fotmem.outputs import check_file

if TYPE_CHECKING:
    from fotmem.measure.bench.figures import Figure
    from fotmem.measure.setting import Setting
    from fotmem.memory.memory import Memory


class Task:
    """A model, what it is attached with, and the options to report.

    Everything is checked before the model is loaded.
    """

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self.name, self.options = name, dict(options)
        if options["report"] is not None:
            _check_report(options["report"], options)
        self.layers = parse_layers(options["layers"])
        self.top_k = parse_top_k(options["top_k"])
        self.settings = _settings(options, self.top_k)
        self.store, self._store_options = parse_store(
            options.get("store"), options.get("option", []), options.get("config")
        )
        """The one that is measured, or the one that reads for all."""
        if not self.settings:
            self.options["store"] = self.store
        self.text = read_texts(options["text"]) if "text" in options else ""
        self.model, self.tokenizer = load_quietly(options["model"], options["dtype"])

    def attach(self) -> Memory:
        """Attach the memory that was asked for; what a command has no option for is the default."""
        from fotmem.memory.attachment import attach

        names = {"window", "distance", "decay", "temperature"} & self.options.keys()
        chosen = {name: self.options[name] for name in names}
        chosen |= self._store_options
        return attach(self.model, self.store, self.layers, top_k=self.top_k, **chosen)

    def write(self, rows: Sequence[Any], file: Path | None, *, as_json: bool) -> bool:
        """Write the report if asked to, and the JSON; tell whether there was JSON."""
        if file is not None:
            from fotmem.measure.evaluate.report import report, write_report

            write_report(file, report(self.name, self.options, rows))
        if as_json:
            print(json.dumps({"rows": [asdict(row) for row in rows]}, indent=2))
        return as_json


def _check_report(file: Path, options: dict[str, Any]) -> None:
    """Refuse a place for the report where it cannot be written, or where something else is."""
    read = [*options.get("text", ()), options.get("grid"), options.get("config")]
    check_file(file, inputs=[*read, options["model"]])
    if file.is_file() and file.stat().st_size:
        from fotmem.measure.evaluate.report import read_report

        read_report(file)  # not such as a model's config.json


def _settings(options: dict[str, Any], top_k: int | None) -> list[Setting]:
    """Return the settings to compare: none where one store is measured."""
    stores, grid = options.get("stores"), options.get("grid")
    if stores is None:
        if grid is not None:
            raise typer.BadParameter("expected --stores beside it, got none", param_hint="'--grid'")
        return []
    if options["store"] or options["option"] or options["config"]:
        raise typer.BadParameter(
            "it stands for --store, --option and --config, got both: use --grid for options",
            param_hint="'--stores'",
        )
    if top_k is None:
        raise typer.BadParameter(
            "expected a number beside --stores, which compares what stores find; got 'all'",
            param_hint="'--top-k'",
        )
    require_packages("fotmem eval --stores", "scipy")
    from fotmem.measure.grid import read_grid, settings

    return settings(parse_stores(stores), read_grid(grid) if grid else None)


def tracked(label: str, steps: Iterable[Any], total: int) -> list[Any]:
    """Take all steps, with a progress bar on stderr."""
    return list(track(steps, label, total=total, console=Console(stderr=True)))


def interval(ends: tuple[float, float], digits: str = ".2f") -> str:
    """Show a confidence interval."""
    return f"{ends[0]:{digits}} to {ends[1]:{digits}}"


def shown(figure: Figure) -> str:
    """Show a figure with its confidence interval."""
    return f"{figure.value:.3f} ({interval((figure.low, figure.high), '.3f')})"
