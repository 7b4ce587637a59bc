"""Calls the command line, in this process or in one of its own."""

import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import transformers

from fotmem import progress
from fotmem.cli import main

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""More only slow tiny models down."""

PROGRAM = (sys.executable, "-m", "fotmem")

STOPPED = (130, -signal.SIGINT)
"""How Ctrl-C ends it; a shell shows both as 130.

``python -m`` ends by the signal if that came while a string was executed, as namedtuple does.
"""


class Ended(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> Ended:
    """Run a command in this process; a busy machine's progress is not told."""
    verbosity = transformers.logging.get_verbosity()
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["fotmem", *map(str, arguments)])
        patch.setattr(sys, "excepthook", sys.excepthook)  # typer sets its own
        patch.setattr(progress, "EVERY", progress.EVERY and math.inf)
        with pytest.raises(SystemExit) as stopped:
            main()
    transformers.logging.set_verbosity(verbosity)
    out, err = capsys.readouterr()
    code = stopped.value.code
    assert code is None or isinstance(code, int)
    return Ended(code or 0, out, err)


def refusal(capsys: pytest.CaptureFixture[str], code: int, *arguments: object) -> str:
    """Run a command that must fail with one line on stderr, and return that line."""
    ended = call(capsys, *arguments)
    assert (ended.code, ended.out) == (code, "")
    [line] = ended.err.splitlines()
    assert line.startswith("fotmem: ")
    return line.removeprefix("fotmem: ")


def process(*arguments: object, path: Path | None = None) -> Ended:
    """Run a command in a process of its own, which also finds packages in `path`."""
    ended = subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        env=os.environ | ONE_THREAD | ({"PYTHONPATH": str(path)} if path else {}),
        capture_output=True,
        text=True,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)
