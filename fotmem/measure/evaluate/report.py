"""The report of an evaluation: rows, options, machine and versions, as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from fotmem.arguments import differing
from fotmem.errors import InputError
from fotmem.files import read_utf8, write_text
from fotmem.measure.evaluate.compare_settings import SettingRun
from fotmem.measure.evaluate.store_quality import StoreQuality
from fotmem.measure.machine import describe_machine, versions
from fotmem.measure.setting import Setting, first_of
from fotmem.outputs import check_file

FREE = ("stores", "grid", "report", "as_json")
"""Options that may differ from those of the report that a run continues or replaces."""
LARGEST = 1e60
"""Largest figure in a report: larger ones would overflow what is computed from them."""


@dataclass(frozen=True, kw_only=True)
class StoreRow:
    """A result with a store, or without memory."""

    tokens: int
    """Length of the text."""
    store: str | None
    """None: without memory."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the store, where settings were compared."""
    store_quality: StoreQuality | None = None
    """Figures of the store for the queries of this task; None where settings were not compared."""


RowT = TypeVar("RowT", bound=StoreRow)
AnyRow = TypeVar("AnyRow")


@dataclass(frozen=True)
class SettingFailure:
    """A setting that could not be measured."""

    tokens: int
    store: str
    options: dict[str, Any]
    reason: str
    task: str | None = None
    """One of several tasks of an evaluation."""


def report(
    task: str,
    options: dict[str, Any],
    rows: Sequence[Any],
    *,
    inputs: Mapping[str, str] | None = None,
    **more: Sequence[Any],
) -> dict[str, Any]:
    """Combine the rows of a task, and further rows by name, with options, machine and versions.

    `inputs` has digests of what the options name, such as the text: a file may change.
    """
    return {
        "task": task,
        "options": options,
        "inputs": dict(inputs or {}),
        **{name: [asdict(row) for row in some] for name, some in {"rows": rows, **more}.items()},
        "machine": describe_machine(),
        "versions": versions(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write_report(file: Path, content: dict[str, Any]) -> None:
    """Write a report as JSON, whole or not at all."""
    text = json.dumps(content, indent=2, default=str, allow_nan=False)
    write_text(file, f"{text}\n")


class _Content(BaseModel):
    """The keys that a report must have; others are allowed."""

    task: str
    options: dict[str, Any]
    inputs: dict[str, str] = {}
    rows: list[dict[str, Any]]
    failures: list[SettingFailure] = []


def read_report(file: Path) -> dict[str, Any]:
    """Read a report that `write_report` wrote.

    Raises
    ------
    InputError
        The file cannot be read, or is something else.
    """
    text = read_utf8(file)
    try:
        content: dict[str, Any] = json.loads(
            text, parse_constant=_refused, parse_float=_figure, parse_int=_count
        )
        _Content.model_validate(content)
    except ValidationError as error:
        raise InputError(
            f"{file} is not a report of fotmem eval: it has no task, options and rows "
            f"({first_of(error)})"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not a report of fotmem eval: {error}") from error
    return content


def earlier_report(file: Path, task: str, options: dict[str, Any]) -> dict[str, Any] | None:
    """Read the report that a run continues or replaces; None if there is none.

    Raises
    ------
    InputError
        The file is something else, or the report of another task or of other options.
    """
    if not file.is_file() or not file.stat().st_size:
        return None
    before = read_report(file)
    ours = json.loads(json.dumps({"task": task, "options": options}, default=str))
    if differ := differing(_asked(before), _asked(ours)):
        raise InputError(f"{file} is the report of another run, with {differ}: name a new file")
    return before


def _asked(content: dict[str, Any]) -> dict[str, Any]:
    """Return the task of a report, and the options that its rows depend on."""
    options = {name: value for name, value in content["options"].items() if name not in FREE}
    return {"task": content["task"]} | options


def _refused(constant: str) -> float:
    raise ValueError(f"{constant} is not a figure")


def _figure(text: str) -> float:
    return float(text) if abs(float(text)) <= LARGEST else _refused(text)


def _count(text: str) -> float:
    return int(text) if len(text) < 19 else _refused(text)  # 64 bits


class TaskReport(Generic[RowT]):
    """The rows of several settings in a task, in a file that is written after each row.

    Parameters
    ----------
    task : str
    options : dict
        Options of the command.
    kind : type
        Type of the rows.
    file : Path, optional
        File of the report. Rows that it has already are not measured again.
    inputs : dict, optional
        Digests of what the options name: see `report`.

    Raises
    ------
    InputError, StorageError
        `file` is not a report, or the report of another task, of other options or inputs; it cannot
        be written.
    """

    def __init__(
        self,
        task: str,
        options: dict[str, Any],
        kind: type[RowT],
        file: Path | None,
        inputs: Mapping[str, str] | None = None,
    ) -> None:
        self.rows: list[RowT] = []
        self.failures: list[SettingFailure] = []
        self._report, self._file = report(task, options, [], inputs=inputs), file
        if file is not None:
            check_file(file)
            before = earlier_report(file, task, options)
            if before is not None:
                self._resume(kind, file, before)

    def missing(
        self, tokens: int, settings: Sequence[Setting], task: str | None = None
    ) -> list[Setting]:
        """Return the settings without a row for `tokens`; failed ones are tried again."""
        return [each for each in settings if not self.has(tokens, each.store, each.options, task)]

    def has(
        self, tokens: int, store: str | None, options: dict[str, Any], task: str | None = None
    ) -> bool:
        """Return whether there is a row; `store` None: without memory.

        `task` is one of the tasks of an evaluation that has several.
        """
        about = (tokens, store, options, task)
        return any(
            (row.tokens, row.store, row.options, getattr(row, "task", None)) == about
            for row in self.rows
        )

    def add(self, row: RowT) -> None:
        """Add a row, and write the report."""
        self.rows.append(row)
        self._write()

    def keep(
        self,
        run: SettingRun[Any],
        tokens: int,
        row: Callable[[SettingRun[Any]], RowT],
        task: str | None = None,
    ) -> None:
        """Add the row of a setting with its store's figures, or its failure; write the report."""
        store, options = run.setting.store, run.setting.options
        failed = SettingFailure(tokens, store, options, run.failure, task)
        self.failures = [
            each for each in self.failures if replace(each, reason=run.failure) != failed
        ]
        if run.failure:
            self.failures.append(failed)
            self._write()
        else:
            self.add(replace(row(run), options=options, store_quality=run.store_quality))

    def as_dict(self) -> dict[str, Any]:
        """Return rows and failures as JSON has them."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "failures": [asdict(failed) for failed in self.failures],
        }

    def _write(self) -> None:
        if self._file is not None:
            write_report(self._file, self._report | self.as_dict())

    def _resume(self, kind: type[RowT], file: Path, before: dict[str, Any]) -> None:
        ours, theirs = self._report["inputs"], before.get("inputs", {})
        if changed := " and ".join(name for name in ours if ours[name] != theirs.get(name)):
            known = "the report of" if theirs else "a report of an earlier version, perhaps of"
            raise InputError(f"{file} is {known} another {changed}: name a new file")
        self._report = before | {"options": self._report["options"]}
        self.rows = rows_of(before, kind, file)
        self.failures = _Content.model_validate(before).failures


def rows_of(content: dict[str, Any], kind: type[AnyRow], file: Path) -> list[AnyRow]:
    """Return the rows of a report that was read from a file.

    Raises
    ------
    InputError
        A row is not of this kind.
    """
    adapter = TypeAdapter(kind)
    try:
        return [adapter.validate_python(row) for row in content["rows"]]
    except ValidationError as error:
        raise InputError(f"{file} is not a report of fotmem eval ({first_of(error)})") from error
