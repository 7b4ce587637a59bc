"""The part that all evaluations share: they read options, show progress, and report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fotmem.cli.loading import load_quietly, read_texts
from fotmem.cli.parsing import parse_layers, parse_store, parse_stores, parse_top_k
from fotmem.errors import InputError, require_packages
from fotmem.outputs import check_file

if TYPE_CHECKING:
    from fotmem.measure.bench.figures import Figure
    from fotmem.measure.evaluate.questions.question_file import Question
    from fotmem.measure.evaluate.report import RowT, TaskReport
    from fotmem.measure.setting import Setting
    from fotmem.memory.memory import Memory

EXACT_MATCH = "exact match"
"""Column title of the share of answers that are entirely correct."""
FILES = ("report", "grid", "config", "questions")
"""Options that name a file."""
ATTACHED = ("window", "distance", "recent", "decay", "temperature")
"""Options of `attach`, where a command has them."""


class Task:
    """A model, the options of its memory, and the options to report.

    All that can be is checked before the model is loaded, and the rest before it answers.

    Parameters
    ----------
    context : typer.Context
        The command and its options.
    settled : Any
        Values of options whose default depends on other options.
    """

    def __init__(self, context: typer.Context, **settled: Any) -> None:
        self.name = context.info_name or ""
        self.options = options = {**_options(context), **settled}
        self.layers = parse_layers(options["layers"])
        self.top_k = parse_top_k(options["top_k"])
        self.settings = _settings(options, self.top_k)
        self.store, self._store_options = parse_store(
            options.get("store"), options.get("option", []), options.get("config")
        )
        """The store to measure; where settings are compared, the store that reads for all."""
        if not self.settings:
            self.options["store"] = self.store
        self._part = None if options["report"] is None else _part_of(options["report"])
        for file in filter(None, (options["report"], self._part)):
            _check_report(file, self.name, options)
        self.text = read_texts(options["text"]) if "text" in options else ""
        self.questions = _questions(options.get("questions"))
        self.model, self.tokenizer = load_quietly(options["model"], options["dtype"])
        self.inputs = {} if options["report"] is None else self._inputs()
        """What the report is of, by digests: a file may change, a model be trained anew."""
        windows = options.get("window")
        for window in windows if isinstance(windows, list) else [windows]:
            with self.attach(**({} if window is None else {"window": window})) as memory:
                self._recent = memory.recent

    def attach(self, **changed: Any) -> Memory:
        """Attach a memory with the given options; others keep the defaults of `attach`.

        `changed` has other values for some of `ATTACHED`.
        """
        from fotmem.memory.attachment import attach

        chosen = {name: self.options[name] for name in ATTACHED if name in self.options}
        chosen |= changed | self._store_options
        return attach(self.model, self.store, self.layers, top_k=self.top_k, **chosen)

    def check_sizes(self, sizes: Sequence[int]) -> None:
        """Refuse to compare settings of stores in texts of which nothing is searched.

        Raises
        ------
        InputError
            All remembered tokens of a text are recent.
        """
        from fotmem.measure.reading import LOCAL

        if self.settings and min(sizes) <= self._recent + LOCAL:
            raise InputError(
                f"the last {self._recent} tokens of memory are recent, and never searched: "
                f"expected more than {self._recent + LOCAL} tokens where stores are compared, got "
                f"{min(sizes)}; take a longer text, or fewer recent tokens (--recent)"
            )

    def keep(self, rows: Sequence[Any], **more: Sequence[Any]) -> None:
        """Write the rows so far beside the report, since the next one may take hours.

        `more` is as for `write`.
        """
        if self._part is not None:
            self._write(self._part, _named(rows, more))

    def write(self, rows: Sequence[Any], **more: Sequence[Any]) -> bool:
        """Write the report and print JSON, if wanted; return whether there was JSON.

        `more` has further rows by name; names without rows are left out.
        """
        named = _named(rows, more)
        if self.options["report"] is not None:
            self._write(self.options["report"], named)
        if self._part is not None:
            self._part.unlink(missing_ok=True)
        if self.options["as_json"]:
            shown = {name: [asdict(row) for row in some] for name, some in named.items()}
            print(json.dumps(shown, indent=2))
        return bool(self.options["as_json"])

    def _write(self, file: Path, named: dict[str, Sequence[Any]]) -> None:
        from fotmem.measure.evaluate.report import report, write_report

        write_report(file, report(self.name, self.options, inputs=self.inputs, **named))

    def kept(self, kind: type[RowT]) -> TaskReport[RowT]:
        """Return the rows that the report has already; see `TaskReport`."""
        from fotmem.measure.evaluate.report import TaskReport

        return TaskReport(self.name, self.options, kind, self.options["report"], self.inputs)

    def _inputs(self) -> dict[str, str]:
        from fotmem.models.fingerprint import model_digest

        digests = {"model": model_digest(self.model, self.tokenizer)}
        if self.text:
            digests["text"] = _digest(self.text)
        if self.questions:
            asked = [question.model_dump_json() for question in self.questions]
            digests["questions"] = _digest("\n".join(asked))
        return digests


def _named(rows: Sequence[Any], more: dict[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    return {"rows": rows} | {name: some for name, some in more.items() if some}


def _part_of(report: Path) -> Path | None:
    """Return the file for the rows so far; None where a report is no file, such as a pipe."""
    is_file = report.is_file() or not report.exists()
    return report.with_name(f"{report.name}.part") if is_file else None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _options(context: typer.Context) -> dict[str, Any]:
    """Return the options of a command, with paths for files."""
    options = dict(context.params)
    for name in FILES:
        if options.get(name) is not None:
            options[name] = Path(options[name])
    if "text" in options:
        options["text"] = [Path(file) for file in options["text"]]
    source = context.get_parameter_source("passages")
    if options.get("stores") is not None and source is not None and source.name == "DEFAULT":
        options["passages"] = 0  # figures of stores are for the queries of answers
    return options


def _questions(file: Path | None) -> list[Question]:
    if file is None:
        return []
    from fotmem.measure.evaluate.questions.question_file import read_questions

    return read_questions(file)


def _check_report(file: Path, task: str, options: dict[str, Any]) -> None:
    """Refuse a report that cannot be written, or that would replace anything but its like."""
    read = [*options.get("text", ()), *(options.get(name) for name in FILES if name != "report")]
    check_file(file, inputs=[*read, options["model"]])
    from fotmem.measure.evaluate.report import earlier_report

    earlier_report(file, task, options)


def _settings(options: dict[str, Any], top_k: int | None) -> list[Setting]:
    """Return the settings to compare; none where one store is measured."""
    stores, grid = options.get("stores"), options.get("grid")
    if stores is None:
        if grid is not None:
            raise typer.BadParameter("expected --stores beside it, got none", param_hint="'--grid'")
        return []
    if options["store"] or options["option"] or options["config"]:
        raise typer.BadParameter(
            "it replaces --store, --option and --config, got both: use --grid for options",
            param_hint="'--stores'",
        )
    if top_k is None:
        raise typer.BadParameter(
            "expected a number beside --stores, which compares the keys found; got 'all'",
            param_hint="'--top-k'",
        )
    require_packages("fotmem eval --stores", "scipy")
    from fotmem.measure.grid import read_grid, settings

    return settings(parse_stores(stores), read_grid(grid) if grid else None)


def interval(ends: tuple[float, float], digits: str = ".2f") -> str:
    """Format a confidence interval."""
    return f"{ends[0]:{digits}} to {ends[1]:{digits}}"


def shown(figure: Figure) -> str:
    """Format a figure with its confidence interval."""
    return f"{figure.value:.3f} ({interval((figure.low, figure.high), '.3f')})"
