"""How recipes end: errors that can be expected are one line, signals stop commands that run."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from fotmem.errors import InputError
from recipes import answers_report, smollm2_report
from recipes.given_texts import texts_given, texts_of
from recipes.stopping import run_recipe

SLEEP = "import os, time; os.write(1, b'%d\\n' % os.getpid()); time.sleep(60)"
COMMAND = [sys.executable, "-c", SLEEP]
RECIPES = {
    "a command": f"""
import subprocess
main = lambda: subprocess.run({COMMAND}, check=True)
""",
    "two at a time": f"""
import subprocess
from recipes import quality_report
quality_report.measure = lambda *about: subprocess.run({COMMAND}, check=True)
main = lambda: quality_report.main(True, [])
""",
}
RUN = "from recipes.stopping import run_recipe\nrun_recipe(main)\n"


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_commands(recipe: str, number: int) -> None:
    """Also if only the recipe gets it."""
    process = subprocess.Popen(
        [sys.executable, "-c", RECIPES[recipe] + RUN],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    running = [int(process.stdout.readline()) for _ in range(2 if "two" in recipe else 1)]
    process.send_signal(number)
    begun, said = process.communicate(timeout=20)
    assert (process.returncode, said, begun) == (128 + number, "fotmem: stopped\n", "")
    for each in running:
        with pytest.raises(ProcessLookupError):
            os.kill(each, 0)


def failing(error: Exception) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    "error, line",
    [
        (InputError("no model is named 'x'"), "no model is named 'x'"),
        (typer.BadParameter("TOKENS must be sizes"), "TOKENS must be sizes"),
        (subprocess.CalledProcessError(2, ["fotmem", "a b"]), "this failed: fotmem 'a b'"),
        (ValueError("a mistake of ours"), None),
    ],
)
def test_an_expected_error_is_one_line(error: Exception, line: str | None) -> None:
    with pytest.raises((SystemExit, ValueError)) as ended:
        run_recipe(failing(error))
    assert ended.value.args[0] == (line or "a mistake of ours")
    assert isinstance(ended.value, SystemExit) is (line is not None)


def test_what_is_no_file_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a pipe would take forever."""
    os.mkfifo(tmp_path / "pipe.txt")
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(SystemExit, match=r"there is no .txt file in .*: run make texts, or"):
            texts_of(folder)
    with pytest.raises(SystemExit, match="there is no"):
        smollm2_report.main(tmp_path)
    (tmp_path / "b.txt").touch()
    assert texts_of(tmp_path) == [tmp_path / "b.txt"]
    for name in ("pipe.txt", "none.txt"):
        monkeypatch.setattr("sys.argv", ["recipe", str(tmp_path / "b.txt"), str(tmp_path / name)])
        with pytest.raises(SystemExit, match=rf"there is no file .*{name}: give make TEXT="):
            texts_given()


def test_every_recipe_ends_like_this() -> None:
    folder = Path(answers_report.__file__).parent
    sources = {file.name: file.read_text("utf-8") for file in folder.rglob("*.py")}
    blocks = {name: text.partition('__name__ == "__main__":')[2] for name, text in sources.items()}
    started = {name for name, block in blocks.items() if block}
    assert len(started) >= 16
    assert {name for name in started if "run_recipe(" not in blocks[name]} == set()
