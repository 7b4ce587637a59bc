"""`fotmem plugin check`, against stores that are right, wrong, missing or that crash."""

import functools
import importlib
import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import fotmem
from fotmem.errors import MissingPackageError
from fotmem.plugin.registry import registry
from fotmem.testing import requirements
from fotmem.testing.store.check import SLOW, _tests
from fotmem.testing.store.stores import Stores, promised
from fotmem.testing.store.subjects.tuning import Tuning
from tests.broken_stores import BROKEN
from tests.commands import ONE_THREAD, PROGRAM, STOPPED, call, process, refusal
from tests.plugins import hook, install

STORES = """
import os, signal, time
from fotmem_exact.store import ExactStore
from fotmem_hnsw.options import HnswOptions
from fotmem_hnsw.store import HnswStore

class Deaf(HnswStore):
    def tune_index(self):
        pass

class Idle(ExactStore):
    search_options = frozenset({"effort"})

    def __init__(self, *, options, **layer):
        super().__init__(**layer)
        self.options = options

    def tune_options(self, options):
        self.options = self.options.changed(options)

class Effort(StoreOptions):
    effort: int = 1

class Sorted(ExactStore):
    def search_rows(self, queries, top_k):
        ids, scores = super().search_rows(queries, top_k)
        return type(super().search_rows(queries, top_k))(ids.flip(-1), scores.flip(-1))

class Pausing(ExactStore):
    def search_rows(self, queries, top_k):
        time.sleep(0.03)
        for _ in range(3):  # slower than the exact store under any load
            super().search_rows(queries, top_k)
        return super().search_rows(queries, top_k)

class Crashing(ExactStore):
    def search_rows(self, queries, top_k):
        os.kill(os.getpid(), signal.SIGKILL)

def make(kind):
    def build(**layer):
        return kind(**layer)
    return build

def fail(**arguments):
    raise OSError("no such device")
"""
DECLARED = """[
    spec("wrong-order", factory=make(Sorted)),
    spec("pausing", factory=make(Pausing)),
    spec("crashing", factory=make(Crashing)),
    spec("unmade", factory=fail),
    spec("deaf", factory=Deaf, options=HnswOptions, grid={"ef_search": (16, 384)},
         capabilities=StoreCapabilities(exact=False)),
    spec("idle", factory=Idle, options=Effort, grid={"effort": (1, 9)}),
    spec("doubtful", capabilities=StoreCapabilities(exact=False)),
]"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "plugins"
    folder.mkdir()
    install(folder, "wrong", STORES + hook(DECLARED))
    monkeypatch.syspath_prepend(folder)
    registry.cache_clear()
    yield folder
    registry.cache_clear()


def without_times(report: str) -> str:
    """Each line of a test that was run ends with the seconds that it took."""
    stripped, count = re.subn(r"(?m)^(  (?:ok    |FAILED) .*) \(\d+\.\d\d s\)$", r"\1", report)
    assert count == len(re.findall(r"(?m)^  (?:ok    |FAILED) ", report)) > 0
    return stripped


def test_a_right_store_passes_whatever_the_folder_contains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the project's pytest: no conftest, no options, nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTEST_ADDOPTS", "--no-such-option")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n", "utf-8")
    (tmp_path / "conftest.py").write_text("raise SystemExit\n", "utf-8")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    tests = ("test_best_first", "test_any_order_of_calls", "test_recall", "test_reopening")
    chosen = [word for test in tests for word in ("--test", test)]
    ended = process("plugin", "check", "exact", *chosen)
    assert (ended.code, ended.err) == (0, "")
    lines = without_times(ended.out).splitlines()
    assert lines[0] == "exact: exact, on cpu and cuda"
    assert "Searching" in lines
    assert (
        "  ok     Random sequences of calls give the answers of a plain list of keys and values."
        in lines
    )
    assert "(the store does not declare that it is persistent)" in ended.out
    assert "recall of the top 32: 1.0000, must be at least 1" in lines
    assert lines[-1] == "3 passed, 0 failed, 1 do not apply"
    assert {path.name for path in tmp_path.iterdir()} == {
        "pytest.ini",
        "conftest.py",
        "temporary",
    }
    assert not list(temporary.iterdir())


def test_a_failure_is_reported_with_the_command_that_repeats_it(plugins: Path) -> None:
    chosen = ("--test", "test_best_first", "--test", "test_start_at")
    ended = process("plugin", "check", "wrong-order", *chosen, path=plugins)
    assert (ended.code, ended.err) == (1, "")
    lines = [line.strip() for line in without_times(ended.out).splitlines()]
    at = lines.index("FAILED Hits come best first, in whichever order the keys were added.")
    assert lines[at + 1] == "test_best_first"
    assert lines[at + 2].startswith("hits of head 0, query 0 are not best first: ids [")
    again = "repeat it by: fotmem plugin check wrong-order --test test_best_first"
    assert lines[at + 3] == again
    assert lines[-1] == "0 passed, 2 failed, 0 do not apply"


@pytest.mark.thorough
def test_a_failure_can_be_repeated(plugins: Path) -> None:
    again = "plugin check wrong-order --test test_best_first"
    first, second = (process(*shlex.split(again), path=plugins) for _ in range(2))
    assert "FAILED" in first.out
    assert without_times(first.out) == without_times(second.out)


def test_json(plugins: Path) -> None:
    chosen = ("--test", "test_recall", "--test", "test_keys_and_values_come_back_as_stored")
    bounds = ("--min-recall", "0.5", "--min-mass", "0.6")
    ended = process("plugin", "check", "doubtful", *bounds, *chosen, "--json", path=plugins)
    assert (ended.code, ended.err) == (0, "")
    report = json.loads(ended.out)
    assert report["passed"] is True
    assert (report["store"], report["plugin"], report["options"]) == ("doubtful", "wrong", {})
    assert report["capabilities"]["exact"] is False
    figure = report["figures"]["recall"]
    assert (figure["bound"], figure["measured"]) == (0.5, 1.0)
    assert figure["by_size"]["20011"] == 1.0
    first, second = report["outcomes"]
    assert (first["test"], first["outcome"], first["cases"]) == (chosen[1], "passed", 1)
    assert (second["test"], second["cases"], second["failures"]) == (chosen[3], 3, [])
    assert second["subject"] == "Ids, forgetting and copies"
    assert first["again"] == (
        "fotmem plugin check doubtful --min-recall 0.5 --min-mass 0.6 --test test_recall"
    )


def test_a_store_that_ignores_tuning_is_caught(plugins: Path) -> None:
    told = re.escape("a copy after tune(ef_search=16), and what its new_empty made, with the same")
    with pytest.raises(AssertionError, match=told):
        notes_of("deaf")


def test_an_option_that_changes_nothing_is_noted(plugins: Path) -> None:
    assert notes_of("idle") == ["tune(effort=...), 1 to 9, changed no hit of 6,200 keys"]


def notes_of(store: str) -> object:
    """Test the tuning of a store in this process."""
    make, noted = functools.partial(fotmem.create_store, store), dict[str, object]()
    stores = Stores(make, promised(make, None))
    Tuning().test_tuned_equals_made_anew(stores, noted.__setitem__)
    stores.close()
    return noted["notes"]


@pytest.mark.thorough
def test_the_command_reports_notes(plugins: Path) -> None:
    check = ("plugin", "check", "idle", "--test", "test_tuned_equals_made_anew")
    ended = process(*check, path=plugins)
    assert (ended.code, ended.err) == (0, "")
    assert "note: tune(effort=...), 1 to 9, changed no hit of 6,200 keys\n" in ended.out
    report = json.loads(process(*check, "--json", path=plugins).out)
    assert report["notes"] == ["tune(effort=...), 1 to 9, changed no hit of 6,200 keys"]


@pytest.mark.thorough
def test_fast_runs_most_tests_and_leaves_out_the_slow_ones() -> None:
    every, caught = set(_tests()), Counter(broken.test for broken in BROKEN)
    assert every >= SLOW
    assert sum(caught[test] for test in every - SLOW) > 100
    ended = process("plugin", "check", "exact", "--fast", "--json")
    assert (ended.code, ended.err) == (0, "")
    report = json.loads(ended.out)
    assert {outcome["test"] for outcome in report["outcomes"]} == every - SLOW


@pytest.mark.thorough
def test_a_slow_store_is_reported_and_does_not_fail(plugins: Path) -> None:
    chosen = ("--test", "test_speed_beside_exact")
    ended = process("plugin", "check", "pausing", *chosen, path=plugins)
    assert (ended.code, ended.err) == (0, "")
    sizes = re.findall(
        r"compared with exact, ([\d,]+) keys, (1|64) quer.*: search takes", ended.out
    )
    assert sizes == [
        (size, count) for size in ("1,000", "11,103", "132,000") for count in ("1", "64")
    ]
    assert "search is slower than that of the exact store at every size above" in ended.out


@pytest.mark.thorough
def test_large_sizes_are_asked_for() -> None:
    chosen = ("--test", "test_many_queries_of_an_index")
    ended = process("plugin", "check", "exact", *chosen)
    assert "0 passed, 0 failed, 1 do not apply" in ended.out
    ended = process("plugin", "check", "exact", "--large", *chosen)
    assert "1 passed, 0 failed, 0 do not apply" in ended.out


def test_fast_and_a_slow_test_contradict_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    told = refusal(capsys, 1, "plugin", "check", "exact", "--fast", "--test", "test_recall")
    assert told == "fast leaves out all requested tests: test_recall"


def test_a_store_that_kills_its_process(plugins: Path) -> None:
    ended = process("plugin", "check", "crashing", "--test", "test_best_first", path=plugins)
    assert (ended.code, ended.err) == (1, "")
    told = "the process ended with signal SIGKILL in the middle of this check"
    assert told in ended.out
    assert "0 passed, 1 failed" in ended.out


def test_refusals_are_one_line(plugins: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check = ("plugin", "check")
    assert "did you mean 'exact'?" in refusal(capsys, 1, *check, "exakt")
    told = refusal(capsys, 1, *check, "exact", "--option", "ef_search=3")
    assert told.startswith("store 'exact' has no option 'ef_search'")
    told = refusal(capsys, 1, *check, "exact", "--test", "test_best_frist")
    assert "the contract has no test 'test_best_frist'; did you mean 'test_best_first'?" in told
    told = refusal(capsys, 2, *check, "exact", "--option", "ef_search")
    assert "expected NAME=VALUE, got 'ef_search'" in told
    assert "--min-recall" in refusal(capsys, 2, *check, "exact", "--min-recall", "1.5")
    told = refusal(capsys, 1, *check, "exact", "--test", "order_of_calls")
    assert told.endswith("no test 'order_of_calls'; did you mean 'test_any_order_of_calls'?")
    told = refusal(capsys, 1, *check, "exact", "--fast", "--large")
    assert told == "fast leaves out what large adds; give one of them"
    for bound in ("--min-recall", "--min-mass"):
        told = refusal(capsys, 1, *check, "exact", bound, "0.5")
        assert told.endswith("leave them out, or declare exact=False")
    told = refusal(capsys, 1, *check, "unmade", "--test", "test_best_first")
    assert told == "store 'unmade' cannot be made: OSError: no such device"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"needs hypothesis.*fotmem\[testing\]"):
        importlib.reload(requirements)


def test_the_group_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Example: fotmem plugin check" in call(capsys, "plugin", "--help").out
    out = call(capsys, "plugin", "check", "--help").out
    options = ("--option", "--min-recall", "--min-mass", "--test", "--fast", "--large", "--json")
    for word in ("NAME", *options, "Example:"):
        assert word in out


@pytest.mark.thorough
def test_ctrl_c_ends_it_cleanly(tmp_path: Path) -> None:
    checking = subprocess.Popen(
        [*PROGRAM, "plugin", "check", "exact"],
        env={**os.environ, **ONE_THREAD, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert checking.stdout is not None
    while "ok" not in (line := checking.stdout.readline()):
        assert line, "it ended too early"
    checking.send_signal(signal.SIGINT)
    _, err = checking.communicate()
    assert checking.returncode in STOPPED
    assert err == "fotmem: stopped\n"
    assert not list(tmp_path.iterdir())
