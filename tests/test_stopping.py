"""Ctrl-C, and other signals, at any moment: one line, nothing left behind."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from fotmem.measure.capture import capture_random
from tests.commands import ONE_THREAD, PROGRAM
from tests.plugins import hook, install

SAID = "fotmem: stopped\n"


def python(script: str, *arguments: object, path: Path | None = None) -> tuple[int, str, str]:
    """Run a script in a process of its own; return its exit code, and what it printed."""
    found = [str(path)] * (path is not None) + [os.environ.get("PYTHONPATH", ""), os.getcwd()]
    ended = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=os.environ | ONE_THREAD | {"PYTHONPATH": os.pathsep.join(filter(None, found))},
        capture_output=True,
        text=True,
        check=False,
    )
    return ended.returncode, ended.stdout, ended.stderr


# While it begins

WHILE_IMPORTING = """
import os, signal, sys

_, wanted, *arguments = sys.argv
sys.argv = ["fotmem", *arguments]

class Press:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == wanted and Press in sys.meta_path:
            sys.meta_path.remove(Press)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Press)
from fotmem.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    "module",
    [
        "fotmem.cli.stopping",
        pytest.param("fotmem.cli.commands", marks=pytest.mark.thorough),
        pytest.param("typer", marks=pytest.mark.thorough),
        pytest.param("torch", marks=pytest.mark.thorough),
        "numpy",
        "fotmem.plugin.registry",
    ],
)
def test_ctrl_c_while_importing(module: str) -> None:
    assert python(WHILE_IMPORTING, module, "stores") == (130, "", SAID)


@pytest.mark.thorough
@pytest.mark.parametrize("module", ["transformers", "fotmem.models.load"])
def test_ctrl_c_while_a_command_imports(module: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("A captain.")
    code, out, err = python(WHILE_IMPORTING, module, "ask", tmp_path, "Q", "--text", text)
    assert (code, out, err.splitlines()[-1]) == (130, "", SAID.strip())
    assert "Traceback" not in err


def test_the_entry_point_is_there_at_once() -> None:
    script = (
        "import sys; before = set(sys.modules); from fotmem.cli import main;"
        "print(*sorted(set(sys.modules) - before))"
    )
    assert python(script) == (0, "fotmem fotmem.cli\n", "")


# While it runs

RUN = """
import os, signal, sys, time
from pathlib import Path
from fotmem.cli.stopping import Stopping

def press(number=signal.SIGINT):
    os.kill(os.getpid(), number)

class Loses:
    def __del__(self):
        press()

def swallowed():
    Loses()
    while True:
        time.sleep(0.01)

def swallowed_by_a_library():
    try:
        press()
    except:
        pass
    time.sleep(1000)

def twice():
    try:
        press()
        time.sleep(1000)
    finally:
        for _ in range(5):
            press()
            time.sleep(0.001)
        try:
            raise ValueError
        except ValueError:
            press(signal.SIGTERM)
        print("cleared up")

def turned_into_another_error():
    try:
        press()
        time.sleep(1000)
    except KeyboardInterrupt:
        raise ImportError("numpy failed to import")

def terminated():
    press(signal.SIGTERM)
    time.sleep(1000)

def at_the_end():
    return 0

sys.exit(Stopping().run(globals()[sys.argv[1]]))
"""


@pytest.mark.parametrize(
    ("command", "code", "out"),
    [
        ("swallowed", 130, ""),
        ("swallowed_by_a_library", 130, ""),
        ("twice", 130, "cleared up\n"),
        ("turned_into_another_error", 130, ""),
        ("terminated", 143, ""),
    ],
)
def test_a_stop_is_neither_lost_nor_breaks_cleaning_up(command: str, code: int, out: str) -> None:
    assert python(RUN, command) == (code, out, SAID)


def test_background_processes_ignore_signals() -> None:
    script = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from fotmem.cli.stopping import Stopping\n"
        "print(Stopping().run(lambda: signal.raise_signal(signal.SIGINT) or 7))"
    )
    assert python(script) == (0, "7\n", "")


def test_handlers_are_given_back() -> None:
    script = (
        "import signal\n"
        "numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM]\n"
        "before = [*map(signal.getsignal, numbers)]\n"
        "from fotmem.cli.stopping import Stopping\n"
        "Stopping().run(lambda: signal.raise_signal(signal.SIGTERM))\n"
        "print(before == [*map(signal.getsignal, numbers)])"
    )
    assert python(script) == (0, "True\n", SAID)


# Processes and folders

STUCK = """
import os, time

def stuck(**arguments):
    store = build(**arguments)
    def wait(*given):
        open(os.environ["FOTMEM_TEST_MARK"], "w").close()
        time.sleep(1000)
    store.add_rows = wait
    return store

""" + hook("[spec('stuck', factory=stuck)]")


class Started(NamedTuple):
    """A command in a session of its own, whose store is in the middle of `add`."""

    process: subprocess.Popen[str]
    folder: Path
    temporary: Path

    def left(self) -> list[str]:
        """Name what is in its temporary folder, but for torch's cache, which stays for ever."""
        names = (file.name for file in self.temporary.iterdir())
        return [name for name in names if not name.startswith("torchinductor")]

    def others(self) -> list[int]:
        """Return the processes that it began."""
        found = []
        for process in psutil.process_iter():
            try:
                mark = process.environ().get("FOTMEM_TEST_MARK")
            except psutil.Error:
                continue
            if mark == str(self.folder / "mark") and process.pid != self.process.pid:
                found.append(process.pid)
        return found


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    (tmp_path / "plugins").mkdir()
    install(tmp_path / "plugins", "stuck_plugin", STUCK)
    temporary = Path(tempfile.mkdtemp(prefix="fotmem-"))  # sockets need a short path
    began: list[Started] = []

    def start(*arguments: object) -> Started:
        paths = [tmp_path / "plugins", *map(str, filter(None, sys.path))]
        process = subprocess.Popen(
            [*PROGRAM, *map(str, arguments)],
            env=os.environ
            | ONE_THREAD
            | {
                "PYTHONPATH": os.pathsep.join(map(str, paths)),
                "TMPDIR": str(temporary),
                "FOTMEM_TEST_MARK": str(tmp_path / "mark"),
            },
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        began.append(Started(process, tmp_path, temporary))
        while not (tmp_path / "mark").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        return began[-1]

    yield start
    for each in began:
        for pid in [*each.others(), each.process.pid]:
            if psutil.pid_exists(pid):
                os.kill(pid, signal.SIGKILL)
        each.process.communicate()
    shutil.rmtree(temporary)


def gone(something: Callable[[], object]) -> bool:
    """Wait until there is nothing any more; a quarter of an hour ends what would never end."""
    for _ in range(90_000):
        if not something():
            return True
        time.sleep(0.01)
    return False


COMMANDS = {
    "bench": ("bench", "capture", "--stores", "stuck", "--out", "report"),
    "plugin check": ("plugin", "check", "stuck"),
}


@pytest.mark.parametrize(
    "command", [pytest.param("bench", marks=pytest.mark.thorough), "plugin check"]
)
@pytest.mark.parametrize(
    ("signals", "to_all", "code"),
    [
        ([signal.SIGINT], True, 130),
        pytest.param([signal.SIGINT] * 2, True, 130, marks=pytest.mark.thorough),
        pytest.param([signal.SIGTERM], False, 143, marks=pytest.mark.thorough),
    ],
    ids=["Ctrl-C", "Ctrl-C twice", "SIGTERM"],
)
def test_nothing_is_left_of_a_command_that_is_stopped(
    command: str,
    signals: list[signal.Signals],
    to_all: bool,
    code: int,
    tmp_path: Path,
    start: Callable[..., Started],
) -> None:
    """Ctrl-C in a terminal goes to all processes of a session."""
    capture_random(tmp_path / "capture", tokens=1024, queries=8, num_heads=1, head_dim=4)
    started = start(*COMMANDS[command])
    for number in signals:
        (os.killpg if to_all else os.kill)(started.process.pid, number)
    _, err = started.process.communicate()
    assert started.process.returncode == code
    assert err.replace("\r", "\n").strip().splitlines()[-1] == SAID.strip()
    assert "Traceback" not in err
    assert "Error" not in err
    assert err.count(SAID.strip()) == 1
    assert started.left() == []
    assert gone(started.others)
    assert not (tmp_path / "report").exists()


def test_a_worker_ends_with_a_command_that_is_killed(
    tmp_path: Path, start: Callable[..., Started]
) -> None:
    capture_random(tmp_path / "capture", tokens=1024, queries=8, num_heads=1, head_dim=4)
    started = start(*COMMANDS["bench"])
    assert started.left()
    started.process.kill()
    assert gone(started.others)
    assert [name for name in started.left() if name.startswith("fotmem")] == []  # Python's stay
    _, err = started.process.communicate()
    assert "Traceback" not in err
