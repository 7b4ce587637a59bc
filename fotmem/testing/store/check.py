"""Checks an installed store against the contract, away from any project's tests."""

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from fotmem.errors import OptionError
from fotmem.interrupts import interrupts_deferred
from fotmem.plugin.create import find_store, validated_options
from fotmem.plugin.registry import registry
from fotmem.testing.store import worker
from fotmem.testing.store.contract import StoreContract

PASSED, FAILED, SKIPPED = "passed", "failed", "does not apply"
OUTCOMES = {"passed": PASSED, "failed": FAILED, "skipped": SKIPPED}
SLOWER = 1.2
"""Ratio of times above which a store counts as slower: smaller ones may be chance."""
SLOW = frozenset(
    {
        "test_a_second_process_in_the_same_directory",
        "test_adding_is_amortised",
        "test_adding_stays_as_quick",
        "test_an_estimated_tail",
        "test_any_order_of_calls",
        "test_autocast_and_the_default_dtype",
        "test_building_large_twice",
        "test_damaged_files",
        "test_different_questions_are_not_kept",
        "test_equal_to_brute_force",
        "test_flushing_often",
        "test_flushing_without_closing",
        "test_forgetting_frees_memory",
        "test_forgetting_in_a_large_store",
        "test_half_precision_takes_half",
        "test_ids_of_a_long_text",
        "test_index_while_adding",
        "test_indexed_attention",
        "test_indexed_bias",
        "test_indexed_completeness",
        "test_indexed_copies",
        "test_indexed_loading",
        "test_indexed_long_keys",
        "test_indexed_scores",
        "test_indexed_searching_together",
        "test_indexed_tensors_are_copied",
        "test_large_attention",
        "test_large_batches",
        "test_large_lookups",
        "test_look_ups_of_a_huge_store",
        "test_many_queries",
        "test_merged_halves",
        "test_no_copy_of_all_keys",
        "test_norms_never_seen_before",
        "test_nothing_is_left_behind",
        "test_number_of_threads",
        "test_nothing_is_unpickled",
        "test_recall",
        "test_recall_of_a_huge_store",
        "test_reopening",
        "test_searching_keeps_nothing",
        "test_searching_while_adding",
        "test_softmax_mass",
        "test_speed_beside_exact",
        "test_stores_may_be_dropped",
        "test_sound_while_growing",
        "test_temporaries_of_attend",
        "test_temporaries_of_search",
        "test_the_newest_keys_are_found",
        "test_threads_end",
        "test_torn_directories",
        "test_tuned_equals_made_anew",
        "test_tuning",
    }
)
"""Tests that `fast` leaves out: large stores, memory, damaged files, random sequences of calls.

They take nearly all of the time; the others find most faults of a new store.
"""


@dataclass
class Outcome:
    """The result of one test of the contract, all its cases together."""

    test: str
    subject: str
    what: str
    """What it checks, in one line."""
    outcome: str = SKIPPED
    cases: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)
    """Of each case that failed: ``case`` (its parameters) and ``message``."""
    reason: str = ""
    """Reason why it does not apply."""
    seconds: float = 0.0


@dataclass
class Report:
    """What was checked, and the results."""

    store: str
    plugin: str
    options: dict[str, Any]
    capabilities: dict[str, Any]
    outcomes: list[Outcome] = field(default_factory=list)
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    """``bound``, ``measured`` and ``by_size`` of ``recall`` and of ``attention-mass recall``."""
    speed: list[dict[str, float]] = field(default_factory=list)
    """Per size (``keys``, and ``queries`` of a head): times of ``search`` and ``attend`` as ratios
    to those of the exact store."""
    notes: list[str] = field(default_factory=list)
    """Remarks that are no failures, such as an option that changes nothing."""

    @property
    def slower(self) -> list[str]:
        """Calls that took longer than the exact store's at every size: ``search``, ``attend``."""
        calls = ("search", "attend") if self.speed else ()
        return [call for call in calls if min(row[call] for row in self.speed) > SLOWER]

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
    fast: bool = False,
    large: bool = False,
    show: Callable[[Outcome], None] = lambda outcome: None,
) -> Report:
    """Run the contract against an installed store, in a separate process.

    Parameters
    ----------
    name : str
        As in `available_stores`.
    options : dict
        The store's own.
    min_recall, min_mass : float, optional
        Bounds of an approximate store, as in `StoreContract`.
    tests : list of str, optional
        Run only these tests of the contract.
    fast : bool
        Run only the tests that find most faults in a few seconds.
    large : bool
        Also run sizes that take minutes and many gigabytes, as `StoreContract.large` does.
    show : callable, optional
        Called with each `Outcome` when its test has ended.

    Raises
    ------
    UnknownStoreError, MissingPackageError, OptionError
        Also if the store cannot be made at all; if bounds are given for an exact store; if `fast`
        and `large` are.
    """
    spec, known = find_store(name), _tests()
    validated_options(spec, options)
    if spec.capabilities.exact and not (min_recall is None and min_mass is None):
        raise OptionError(
            f"min_recall and min_mass are for approximate stores, but {name!r} declares "
            "exact=True, whose bounds are 1; leave them out, or declare exact=False"
        )
    tests = _chosen(known, tests or [], fast=fast, large=large)
    report = Report(name, registry().owners[spec], options, vars(spec.capabilities))
    job = {
        "store": name,
        "options": options,
        "min_recall": StoreContract.min_recall if min_recall is None else min_recall,
        "min_mass": StoreContract.min_mass if min_mass is None else min_mass,
        "large": large,
        "tests": tests,
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


def _chosen(known: dict[str, Outcome], asked: list[str], *, fast: bool, large: bool) -> list[str]:
    """Check which tests were asked for, and return those to run; none: all."""
    for test in asked:
        if test not in known:
            raise OptionError.unknown(test, "the contract", known, kind="test")
    if not fast:
        return asked
    if large:
        raise OptionError("fast leaves out what large adds; give one of them")
    tests = [test for test in asked or known if test not in SLOW]
    if not tests:
        raise OptionError(f"fast leaves out all requested tests: {', '.join(asked)}")
    return tests


def _outcomes(job: dict[str, Any], known: dict[str, Outcome], report: Report) -> Iterator[Outcome]:
    """Run the worker, and yield each test after its last case."""
    current: Outcome | None = None
    with _worker(job) as (process, connection):
        for event in _received(connection):
            if event["event"] == "refused":
                raise OptionError(f"store {job['store']!r} cannot be made: {event['message']}")
            if current is not None and current.test != event["test"]:
                yield current
            current = known[event["test"]]
            if event["event"] == "end":
                _count(current, event)
                report.speed += event["figures"].pop("speed", [])
                report.notes += event["figures"].pop("notes", [])
                report.figures.update(event["figures"])
        process.join()
        code = process.exitcode or 0
    if code not in (0, 1) and current is not None:
        why = f"the process ended with {_named(code)} in the middle of this check"
        current.outcome = FAILED
        current.failures.append({"case": "", "message": why})
    if current is not None:
        yield current
    elif code:
        raise OptionError(f"the check itself ended with {_named(code)}: {_last_line(job)}")


@contextmanager
def _worker(job: dict[str, Any]) -> Iterator[tuple[BaseProcess, Connection]]:
    """Start the worker in its own folder; both are always removed afterwards."""
    started = ExitStack()
    try:
        with interrupts_deferred():
            process, connection = _start(job, started)
        yield process, connection
    finally:
        with interrupts_deferred():
            started.close()


def _start(job: dict[str, Any], started: ExitStack) -> tuple[BaseProcess, Connection]:
    folder = started.enter_context(
        tempfile.TemporaryDirectory(prefix="fotmem-check-", ignore_cleanup_errors=True)
    )
    job["folder"], errors = folder, Path(folder) / "stderr"
    # A fork does not import torch again, which takes seconds.
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=worker.main, args=(job, there, errors))
    process.start()
    there.close()

    def read_errors() -> None:
        if errors.exists():
            job["stderr"] = errors.read_text(encoding="utf-8", errors="replace")

    started.callback(read_errors)
    started.callback(here.close)
    started.callback(_end, process)
    return process, here


def _received(connection: Connection) -> Iterator[dict[str, Any]]:
    while True:
        try:
            yield connection.recv()
        except EOFError:
            return


def _end(process: BaseProcess) -> None:
    """End the worker and its processes."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, AttributeError):  # it is the first of its session
            os.killpg(process.pid or 0, number)
        process.terminate() if number == signal.SIGTERM else process.kill()
        process.join(5)


def _count(outcome: Outcome, event: dict[str, Any]) -> None:
    kind = OUTCOMES[event["outcome"]]
    outcome.cases += 1
    outcome.seconds += event["seconds"]
    if kind == FAILED:
        outcome.failures.append({"case": event["case"], "message": event["message"]})
    elif kind == SKIPPED:
        outcome.reason = outcome.reason or event["message"]
    if kind == FAILED or (kind == PASSED and outcome.outcome == SKIPPED):
        outcome.outcome = kind


def _named(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _last_line(job: dict[str, Any]) -> str:
    lines = job.get("stderr", "").strip().splitlines()
    return lines[-1] if lines else "it printed nothing"
