"""Runs the contract for `fotmem plugin check`, in a separate process.

It sends events through a connection: which test begins, and how it ended. What a store or its
library prints goes to a file.
"""

import os
import signal
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

MODULE = """
import functools

import pytest

import fotmem
from fotmem.testing import StoreContract, StoreFactory


class TestStore(StoreContract):
    min_recall = {min_recall!r}
    min_mass = {min_mass!r}
    large = {large!r}

    @pytest.fixture
    def make_store(self) -> StoreFactory:
        return functools.partial(fotmem.create_store, {store!r}, **{options!r})
"""


class Events:
    """A pytest plugin that sends an event for the begin and the end of each test."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.prepared = 0.0

    def send(self, event: str, **facts: object) -> None:
        """Send one event."""
        self.connection.send({"event": event, **facts})

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Report that a test begins: if the process dies, it was in this one."""
        self.send("begin", test=_name(nodeid))

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Report how a test ended, or its setup if that failed."""
        if report.when == "setup":
            self.prepared = report.duration  # such as building a store for several tests
        if report.when != "call" and report.passed:
            return
        seconds = report.duration + (self.prepared if report.when == "call" else 0.0)
        ended = {"test": _name(report.nodeid), "case": _case(report.nodeid), "message": ""}
        if report.skipped:
            ended["message"] = str(report.longrepr[2]).removeprefix("Skipped: ")
        elif report.failed:
            ended["message"] = _message(report)
        figures = dict(report.user_properties)
        self.send("end", outcome=report.outcome, seconds=seconds, figures=figures, **ended)


def main(job: dict[str, Any], connection: Connection, errors: Path) -> None:
    """Check a store without the terminal and any project's pytest settings; exit with its code."""
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C in a terminal goes to all of a session
    for name in ("SIGTERM", "SIGHUP", "SIGALRM"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.unraisablehook = sys.__unraisablehook__
    with errors.open("ab") as file, Path(os.devnull).open("rb") as nothing:
        for number, source in ((0, nothing), (1, file), (2, file)):
            os.dup2(source.fileno(), number)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
        for number, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:
        del os.environ[name]
    os.environ |= {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "HYPOTHESIS_STORAGE_DIRECTORY": str(Path(job["folder"]) / "hypothesis"),
        "TMPDIR": job["folder"],  # libraries leave caches there
        "PYTHONPATH": os.pathsep.join(job["path"]),
    }
    tempfile.tempdir = None
    sys.path[:] = job["path"]
    sys.exit(run(job, connection))


def run(job: dict[str, Any], connection: Connection) -> int:
    """Check a store, and return pytest's exit code."""
    import pytest

    import fotmem

    events, folder = Events(connection), Path(job["folder"])
    able = fotmem.available_stores()[job["store"]].capabilities
    device = "cpu" if "cpu" in able.devices else able.devices[0]
    try:
        made = fotmem.create_store(
            job["store"], num_heads=1, head_dim=4, device=device, **job["options"]
        )
        made.close()
    except Exception as error:
        events.send("refused", message=f"{type(error).__name__}: {error}")
        return 1
    file, configuration = folder / "test_store.py", folder / "pytest.ini"
    file.write_text(MODULE.format(**job), encoding="utf-8")
    configuration.write_text("[pytest]\n", encoding="utf-8")
    tests = [f"{file}::TestStore::{test}" for test in job["tests"]] or [str(file)]
    options = ["-c", str(configuration), "--rootdir", str(folder), "--noconftest", "--tb=short"]
    options += ["-p", "no:cacheprovider", f"--basetemp={folder / 'files'}"]
    return int(pytest.main([*options, *tests], plugins=[events]))


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
