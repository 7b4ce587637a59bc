"""Runs the contract for `fotmem plugin check`, in a process of its own.

Called with a file that says what to check; tells on stdout, one JSON object a line, what begins
and how it ended. What a store or its library prints goes to stderr.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO

MODULE = """
import functools

import pytest

import fotmem
from fotmem.testing import StoreContract, StoreFactory


class TestStore(StoreContract):
    min_recall = {min_recall!r}
    min_mass = {min_mass!r}

    @pytest.fixture
    def make_store(self) -> StoreFactory:
        return functools.partial(fotmem.create_store, {store!r}, **{options!r})
"""


class Teller:
    """A pytest plugin that tells what happens."""

    def __init__(self, out: TextIO) -> None:
        self.out = out

    def tell(self, event: str, **facts: object) -> None:
        """Write one line."""
        self.out.write(json.dumps({"event": event, **facts}) + "\n")
        self.out.flush()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Tell that a test begins: if the process dies, it was in this one."""
        self.tell("begin", test=_name(nodeid))

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Tell how a test ended, or its setup if that failed."""
        if report.when != "call" and report.passed:
            return
        told = {"test": _name(report.nodeid), "case": _case(report.nodeid), "message": ""}
        if report.skipped:
            told["message"] = str(report.longrepr[2]).removeprefix("Skipped: ")
        elif report.failed:
            told["message"] = _message(report)
        figures = dict(report.user_properties)
        self.tell("end", outcome=report.outcome, seconds=report.duration, figures=figures, **told)


def run(job: dict[str, Any], out: TextIO) -> int:
    """Check a store, and return pytest's exit code."""
    import pytest

    import fotmem

    teller, folder = Teller(out), Path(job["folder"])
    able = fotmem.available_stores()[job["store"]].capabilities
    device = "cpu" if "cpu" in able.devices else able.devices[0]
    try:
        made = fotmem.create_store(
            job["store"], num_heads=1, head_dim=4, device=device, **job["options"]
        )
        made.close()
    except Exception as error:
        teller.tell("refused", message=f"{type(error).__name__}: {error}")
        return 1
    file, configuration = folder / "test_store.py", folder / "pytest.ini"
    file.write_text(MODULE.format(**job), encoding="utf-8")
    configuration.write_text("[pytest]\n", encoding="utf-8")
    tests = [f"{file}::TestStore::{test}" for test in job["tests"]] or [str(file)]
    options = ["-c", str(configuration), "--rootdir", str(folder), "--noconftest", "--tb=short"]
    options += ["-p", "no:cacheprovider", f"--basetemp={folder / 'files'}"]
    return int(pytest.main([*options, *tests], plugins=[teller]))


def _name(node: str) -> str:
    return node.rpartition("::")[2].partition("[")[0]


def _case(node: str) -> str:
    return node.rpartition("::")[2].partition("[")[2].removesuffix("]")


def _message(report: Any) -> str:
    """The error with all its notes: of the traceback, the lines that pytest marks."""
    marked = [line[1:] for line in report.longreprtext.splitlines() if line.startswith("E ")]
    indent = min((len(line) - len(line.lstrip()) for line in marked if line.strip()), default=0)
    text = "\n".join(line[indent:].rstrip() for line in marked) or report.longreprtext
    return text.removeprefix("AssertionError: ")


if __name__ == "__main__":
    told = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sys.path[:] = told["path"]
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.exit(run(told, channel))
