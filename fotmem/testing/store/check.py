"""Checks an installed store against the contract, away from any project's tests."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fotmem.errors import OptionError
from fotmem.interrupt import interrupts_deferred
from fotmem.registry import find_store, registry, validated_options
from fotmem.testing.store.contract import StoreContract

HELD, FAILED, SKIPPED = "held", "failed", "does not apply"
OUTCOMES = {"passed": HELD, "failed": FAILED, "skipped": SKIPPED}


@dataclass
class Outcome:
    """How one test of the contract ended, all its cases together."""

    test: str
    subject: str
    what: str
    """What it checks, in one line."""
    outcome: str = SKIPPED
    cases: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)
    """Of each case that failed: ``case`` (its parameters) and ``message``."""
    reason: str = ""
    """Why it does not apply."""
    seconds: float = 0.0


@dataclass
class Report:
    """What was checked, and what came out."""

    store: str
    plugin: str
    options: dict[str, Any]
    capabilities: dict[str, Any]
    outcomes: list[Outcome] = field(default_factory=list)
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By name (``recall``, ``softmax mass``): ``bound`` and ``measured``, and ``by_size``."""

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return all(outcome.outcome != FAILED for outcome in self.outcomes)


def check_store(
    name: str,
    options: dict[str, Any],
    *,
    min_recall: float | None = None,
    min_mass: float | None = None,
    tests: list[str] | None = None,
    show: Callable[[Outcome], None] = lambda outcome: None,
) -> Report:
    """Run the contract against an installed store, in a process of its own.

    Parameters
    ----------
    name : str
        As in `available_stores`.
    options : dict
        The store's own.
    min_recall, min_mass : float, optional
        Bounds of an approximate store, as in `StoreContract`.
    tests : list of str, optional
        Some tests of the contract only.
    show : callable, optional
        Called with each `Outcome` as soon as it is known.

    Raises
    ------
    UnknownStoreError, MissingPackageError, OptionError
        Also if the store cannot be made at all.
    """
    spec = find_store(name)
    validated_options(spec, options)
    known = _tests()
    for test in tests or []:
        if test not in known:
            raise OptionError.unknown(test, "the contract", known, kind="test")
    report = Report(name, registry().owners[spec], options, vars(spec.capabilities))
    job = {
        "store": name,
        "options": options,
        "min_recall": StoreContract.min_recall if min_recall is None else min_recall,
        "min_mass": StoreContract.min_mass if min_mass is None else min_mass,
        "tests": tests or [],
        "path": [path for path in sys.path if path],
    }
    for outcome in _outcomes(job, known, report):
        report.outcomes.append(outcome)
        show(outcome)
    return report


def _tests() -> dict[str, Outcome]:
    """All tests of the contract, not yet run."""
    found = {}
    for kind in StoreContract.__mro__[::-1]:
        for name, test in vars(kind).items():
            if name.startswith("test_"):
                subject = (kind.__doc__ or "").strip().removesuffix(".")
                found[name] = Outcome(name, subject, (test.__doc__ or name).strip().splitlines()[0])
    return found


def _outcomes(job: dict[str, Any], known: dict[str, Outcome], report: Report) -> Iterator[Outcome]:
    """Run the worker, and yield each test when its last case has ended."""
    current: Outcome | None = None
    with _worker(job) as process:
        assert process.stdout is not None
        for line in process.stdout:
            told = json.loads(line)
            if told["event"] == "refused":
                raise OptionError(f"store {job['store']!r} cannot be made: {told['message']}")
            if current is not None and current.test != told["test"]:
                yield current
            current = known[told["test"]]
            if told["event"] == "end":
                _count(current, told)
                report.figures.update(told["figures"])
        code = process.wait()
    if code not in (0, 1) and current is not None:
        why = f"the process ended with {_named(code)} in the middle of this check"
        current.outcome = FAILED
        current.failures.append({"case": "", "message": why})
    if current is not None:
        yield current
    elif code:
        raise OptionError(f"the check itself ended with {_named(code)}: {_last_line(job)}")


@contextmanager
def _worker(job: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    """Start the worker in a folder of its own; whatever happens, both are gone afterwards."""
    started = ExitStack()
    try:
        with interrupts_deferred():
            process = _start(job, started)
        yield process
    finally:
        with interrupts_deferred():
            started.close()


def _start(job: dict[str, Any], started: ExitStack) -> subprocess.Popen[str]:
    folder = started.enter_context(
        tempfile.TemporaryDirectory(prefix="fotmem-check-", ignore_cleanup_errors=True)
    )
    job["folder"] = folder
    file, errors = Path(folder) / "job.json", Path(folder) / "stderr"
    file.write_text(json.dumps(job), encoding="utf-8")
    command = [sys.executable, "-P", "-m", "fotmem.testing.store.worker", str(file)]
    with errors.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            command,
            env=_environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C in a terminal goes to all of a session
        )

    def told() -> None:
        job["stderr"] = errors.read_text(encoding="utf-8", errors="replace")

    started.callback(told)
    started.callback(_end, process)
    return process


def _environment(folder: str) -> dict[str, str]:
    """Nothing of a project's pytest, nor of other plugins of pytest."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return {
        **kept,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "TMPDIR": folder,  # libraries leave caches there
        "HYPOTHESIS_STORAGE_DIRECTORY": str(Path(folder) / "hypothesis"),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }


def _end(process: subprocess.Popen[str]) -> None:
    """End the worker, and what it began."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
    if process.stdout is not None:
        process.stdout.close()


def _count(outcome: Outcome, told: dict[str, Any]) -> None:
    kind = OUTCOMES[told["outcome"]]
    outcome.cases += 1
    outcome.seconds += told["seconds"]
    if kind == FAILED:
        outcome.failures.append({"case": told["case"], "message": told["message"]})
    elif kind == SKIPPED:
        outcome.reason = outcome.reason or told["message"]
    if kind == FAILED or (kind == HELD and outcome.outcome == SKIPPED):
        outcome.outcome = kind


def _named(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _last_line(job: dict[str, Any]) -> str:
    lines = job["stderr"].strip().splitlines()
    return lines[-1] if lines else "it said nothing"
