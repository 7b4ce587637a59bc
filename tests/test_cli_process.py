"""The command line as a process: closed pipes, terminals, Ctrl-C and errors."""

import os
import pty
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from fotmem.errors import InputError
from tests import folders
from tests.commands import ONE_THREAD, PROGRAM, STOPPED, call, process, refusal
from tests.plugins import install
from tests.tiny import one_thread  # noqa: F401 - a fixture

ASK = "ask any Q --text {text}"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("A captain sailed to the island.\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "arguments", [["stores", "--json"], pytest.param(["--help"], marks=pytest.mark.thorough)]
)
def test_a_closed_pipe_is_quiet(arguments: list[str]) -> None:
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = subprocess.Popen(
        [*PROGRAM, *arguments],
        env=buffered,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert command.stdout is not None
    assert command.stderr is not None
    command.stdout.close()
    with command.stderr:
        assert command.stderr.read() == ""
    assert command.wait() == 1


def test_a_terminal_that_cannot_show_everything(
    plugins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(plugins, "foreign", "raise RuntimeError('Möwe')")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    ended = process("stores", path=plugins)
    assert (ended.code, ended.err) == (0, "")
    assert "RuntimeError: M?we" in ended.out


@pytest.mark.parametrize(
    "moment", [pytest.param(b"loading", marks=pytest.mark.thorough), b"tokens"]
)
def test_ctrl_c(moment: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = folders.write(tmp_path_factory.mktemp("model"))
    book = folder / "book.txt"
    book.write_text(folders.PROSE, encoding="utf-8")
    ours, theirs = pty.openpty()  # progress is shown live on a terminal only
    arguments = ["ask", str(folder), "Q", "--text", str(book), "--window", "8", "--json"]
    command = subprocess.Popen(
        [*PROGRAM, *arguments],
        env=os.environ | ONE_THREAD,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    shown = b""
    while moment not in shown:
        shown += os.read(ours, 1024)
    command.send_signal(signal.SIGINT)
    out, _ = command.communicate()
    while piece := _read(ours):
        shown += piece
    os.close(ours)
    assert command.returncode in STOPPED
    assert out == ""
    assert shown.endswith(b"fotmem: stopped\r\n"), shown
    assert b"Traceback" not in shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1024)
    except OSError:  # Linux says so when the other end is closed
        return b""


@pytest.mark.parametrize("error", [KeyboardInterrupt, typer.Abort])
def test_ctrl_c_anywhere(
    error: type[BaseException],
    text: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*given: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr("fotmem.models.load.load_model", interrupted)
    assert refusal(capsys, 130, *ASK.format(text=text).split()) == "stopped"


def test_an_error_of_several_lines_becomes_one(
    text: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*given: Any, **options: Any) -> None:
        raise InputError("first\n  second\tthird")

    monkeypatch.setattr("fotmem.models.load.load_model", failing)
    assert refusal(capsys, 1, *ASK.format(text=text).split()) == "first second third"


def test_a_bug_is_not_hidden(
    text: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*given: Any, **options: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("fotmem.models.load.load_model", failing)
    with pytest.raises(ZeroDivisionError):
        call(capsys, *ASK.format(text=text).split())
