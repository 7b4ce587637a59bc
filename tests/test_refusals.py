"""Whatever stands in a command or a file: one line says what is wrong with it, or it works."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer

from fotmem.cli import commands
from fotmem.errors import InputError
from fotmem.files import read_text, read_toml, read_utf8
from tests.commands import Ended, call, refusal

BASES = {
    "ask": "ask any Q --text read",
    "read": "read any read --into new",
    "layers": "layers any --text read",
    "select": "select any --tokens 1M --text read",
    "capture": "capture any --text read --out new",
    "capture-random": "capture-random --tokens 3 --queries 2 --heads 1 --dim 2 --out new",
    "bench run": "bench nothing",
    "train": "train any --data read --output new",
    "eval passkey": "eval passkey any --text read",
    "eval facts": "eval facts any --text read",
    "eval ruler": "eval ruler any --text read",
    "eval questions": "eval questions any --text read --questions asked",
    "eval perplexity": "eval perplexity any --text read",
    "eval dictionary": "eval dictionary any",
    "eval distraction": "eval distraction any --text read",
    "plugin check": "plugin check nothing",
}
NUMBERS = ["-1", "0", "nan", "inf", "-inf", "1e400", "9" * 20, "9" * 5000, "", "x", "1.5"]
TEXTS = ["", " ", ",", "x", "-1", "0", "1.5", "nan", "9" * 5000, "1,1", "1-0", "\u0663", "4GB"]
FREE = {"text", "out", "report", "model", "data", "output", "test", "device", "dtype", "name"}
"""Options that take any name of a file, or one of few words."""


def functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield all commands with their functions."""
    apps = [("", commands.app)]
    for prefix, app in apps:
        apps += [(f"{each.name} ", each.typer_instance) for each in app.registered_groups]
        for command in app.registered_commands:
            assert command.callback is not None
            yield prefix + (command.name or command.callback.__name__), command.callback


def option_names(function: Callable[..., Any], kinds: tuple[type, ...]) -> list[str]:
    """Name the options of a command that take one of these."""
    found = []
    for name, hint in get_type_hints(function, include_extras=True).items():
        if name in ("return", "context") or name in FREE:
            continue
        kind, *about = get_args(hint)
        if isinstance(about[0], typer.models.OptionInfo) and (
            kind in kinds or set(get_args(kind)) & set(kinds)
        ):
            decls = [decl for decl in about[0].param_decls or () if decl.startswith("--")]
            found.append(decls[0] if decls else f"--{name.replace('_', '-')}")
    return found


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, without any model."""

    def none(name: str, **options: Any) -> None:
        raise InputError(f"there is no model {name}")

    monkeypatch.setattr("fotmem.models.load.load_model", none)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "read").write_text("A captain sailed to the island.\n")
    asked = '{"question": "Who sailed?", "answers": ["captain"], "passage": "sailed to"}'
    (tmp_path / "asked").write_text(asked)
    return tmp_path


def assert_understood(ended: Ended, *given: object) -> None:
    assert ended.code in (0, 1, 2), given
    if ended.code:
        assert ended.out == "", given
        [line] = ended.err.splitlines()
        assert line.startswith("fotmem: "), given
        assert "Input should" not in line, given  # typer's words for numbers


@pytest.mark.parametrize(
    "step", [4, pytest.param(1, marks=pytest.mark.thorough)], ids=["some", "all"]
)
@pytest.mark.parametrize("command", BASES)
def test_invalid_numbers_and_texts_are_refused(
    command: str, step: int, nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    function = dict(functions())[command]
    numbers, texts = (option_names(function, kinds) for kinds in ((int, float), (str,)))
    assert numbers or texts
    for options, values in ((numbers, NUMBERS), (texts, TEXTS)):
        for first, option in enumerate(options):
            for value in values[first % step :: step]:
                given = [*BASES[command].split(), f"{option}={value}"]
                assert_understood(call(capsys, *given), *given)


def test_every_command_is_in_the_table() -> None:
    others = {
        "memory verify",
        "memory repair",
        "memory compact",
        "stores",
        "models",
        "demo",
        "capture-arrays",
        "train-dictionary",
        "eval curve",
    }
    assert {name for name, _ in functions()} == {*BASES, *others, "bench compare", "plugin new"}


REPEATED = {
    "ask any Q --text read --option a=1 --option a=2": "expected a once, got '1' and '2'",
    "ask any Q --text read --store exact --store zarr": "'--store': expected it once",
    "eval passkey any --stores exact --grid a --grid b": "'--grid': expected it once",
    "eval passkey any --config a --config b": "'--config': expected it once",
    "eval passkey any --report a --report b": "'--report': expected it once",
    "eval passkey any --stores exact,zarr,exact": "'--stores': expected each once, got exact",
    "eval passkey any --tokens 4k,4096": "'--tokens': expected each once, got 4096",
    "eval ruler any --tasks vt,qa,vt": "'--tasks': expected each once, got vt",
    "eval passkey any --layers 1-3,2": "'--layers': expected each once, got 2",
    "bench nothing --top-k 1,2,1": "'--top-k': expected each once, got 1",
    "plugin check exact --option a=1 --option a=1": "expected a once",
}


@pytest.mark.parametrize("given", REPEATED)
def test_an_option_that_is_given_twice_is_refused(
    given: str, nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert REPEATED[given] in refusal(capsys, 2, *given.split())


def test_of_other_options_the_last_one_counts(
    nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = f"{BASES['capture-random']} --dim 3 --dim 4"
    assert "1 heads of 4 dimensions" in call(capsys, *given.split()).out


DEFAULTS = {
    "train any --data read --output new --documents 2": "there is no model any",
    "eval distraction any --text read --window 64": "there is no model any",
    "eval dictionary any --tokens 1000": "there is no model any",
    "eval facts any --text read --tokens 512": "there is no model any",
}


@pytest.mark.parametrize("given", DEFAULTS)
def test_no_default_stands_in_the_way_of_an_option(
    given: str, nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refusal(capsys, 1, *given.split()) == DEFAULTS[given]


# Files


@pytest.mark.parametrize("read", [read_text, read_toml, read_utf8])
def test_an_endless_file_is_refused(read: Callable[[Path], Any]) -> None:
    for name in ("/dev/zero", "/dev/urandom"):
        with pytest.raises(InputError, match=f"{name} is (binary|not UTF-8)"):
            read(Path(name))


@pytest.mark.parametrize("read", [read_text, read_toml, read_utf8])
@pytest.mark.parametrize("name", [".", "nothing", "file/below", "null\0byte", "x" * 300, "loop"])
def test_an_unreadable_file_is_named(
    read: Callable[[Path], Any], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("text")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match="cannot be read: "):
        read(Path(name))


def test_where_a_long_text_goes_wrong(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_bytes(b"x" * 2**20 + b"y\xff")
    with pytest.raises(InputError, match=rf"not UTF-8 text \(byte {2**20 + 1}\)"):
        read_text(file)
    file.write_bytes(b"x" * (2**20 - 1) + "é\0".encode())
    with pytest.raises(InputError, match="is binary"):
        read_text(file)
    file.write_bytes(b"x" * (2**20 - 1) + "é\r\n".encode())
    assert read_text(file) == "x" * (2**20 - 1) + "é\n"


NESTED = "[" * 100_000


@pytest.mark.parametrize("content", [f"[exact]\na = {NESTED}", "exact = 1", "[exact]\na = [nan]"])
def test_an_invalid_grid_is_refused(
    content: str, nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (nowhere / "grid").write_text(content)
    given = ["eval", "passkey", "any", "--text", "read", "--stores", "exact", "--grid", "grid"]
    assert_understood(call(capsys, *given), content)


def test_an_option_that_is_nested_too_deep(
    nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*["ask", "any", "Q", "--text", "read", "--store", "hnsw"], "--option", f"M={NESTED}"]
    assert "M" in refusal(capsys, 1, *given)
