import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from rich.console import Console

import fotmem
from fotmem import progress
from fotmem.cli import demo, loading, parsing
from fotmem.errors import InputError
from fotmem.measure.reading import LOCAL
from fotmem.models.packaged import packaged_names
from fotmem.plugin.registry import registry
from fotmem.tasks.answer import Answer
from tests import folders
from tests.commands import ONE_THREAD, PROGRAM, STOPPED, call, process, refusal
from tests.plugins import hook, install
from tests.tiny import one_thread  # noqa: F401 - a fixture

EXACT = {"name": "exact", "plugin": "fotmem_exact", "available": True, "reason": ""}
BUILT_IN = ("exact", "faiss-flat", "faiss-ivf", "faiss-ivfpq", "faiss-hnsw", "hnsw", "zarr")
COMMANDS = {
    "": "demo",
    "stores": "stores --json",
    "models": "models --json",
    "demo": "demo --store exact",
    "ask": 'ask smollm2 --text book.txt "Who is the captain?"',
    "eval": "eval passkey smollm2 --tokens 4096 --text book.txt",
    "eval passkey": "eval passkey smollm2 --tokens 4096 --text book.txt",
    "eval facts": "eval facts smollm2 --tokens 16k --text book.txt",
    "eval perplexity": "eval perplexity smollm2 --tokens 4k,16k --text book.txt",
    "layers": "layers smollm2",
    "capture": "capture smollm2 --text book.txt --tokens 64k --out DIR",
    "capture-arrays": "capture-arrays --keys keys.npy --queries queries.npy --out DIR",
    "capture-random": "capture-random --tokens 64k --mismatch 0.5 --out DIR",
    "bench": "bench CAPTURE --stores exact,faiss-ivf",
    "bench run": "bench CAPTURE --stores exact,faiss-ivf",
    "bench compare": "bench compare before after",
    "plugin": "plugin check exact",
    "plugin check": "plugin check hnsw --option ef_search=128",
    "train": "train smollm2 --data book.txt --output tuned --steps 100",
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("A captain sailed to the island.\n", encoding="utf-8")
    return path


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """One plugin that cannot be imported, one whose package is missing, and a good one."""
    install(tmp_path, "broken", "raise RuntimeError('[bold]boom[/bold],\\n twice')")
    install(
        tmp_path, "poor", hook("[spec('absent', requires=('not_there',), install='pip it[all]')]")
    )
    install(tmp_path, "good", hook("[spec('good-store')]"))
    monkeypatch.syspath_prepend(tmp_path)
    registry.cache_clear()
    yield tmp_path
    registry.cache_clear()


# Help


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    ended = call(capsys, *command.split(), flag)
    assert (ended.code, ended.err) == (0, "")
    assert f"Usage: fotmem {command}".rstrip() in ended.out
    assert f"Example: fotmem {COMMANDS[command]} " in ended.out


@pytest.mark.parametrize("command", ["", "eval", "plugin"])
def test_a_group_alone_shows_its_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    ended = call(capsys, *command.split())
    assert (ended.code, ended.err) == (2, "")
    assert ended.out.rstrip() == call(capsys, *command.split(), "--help").out.rstrip()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "--version") == (0, f"fotmem {fotmem.__version__}\n", "")


def test_help_names_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    out = call(capsys, "ask", "--help").out
    for word in ("MODEL", "QUESTION", "FILE", "smollm2", "--json", "[default: 40]", "[x>=2]"):
        assert word in out


@pytest.mark.parametrize(
    "command", ["ask", "layers", "capture", "select", "train", "eval passkey", "eval dictionary"]
)
def test_help_names_the_packaged_models(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    [line] = re.findall(r"\*.*\bMODEL\b(.*)", call(capsys, *command.split(), "--help").out)
    fits = [name for name in packaged_names() if (name == "dictionary-fot") == ("dict" in command)]
    assert set(re.findall(r"[a-z0-9]+-fot|smollm2", line)) == set(fits)


# Stores


def test_stores_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    ended = call(capsys, "stores", "--json")
    assert (ended.code, ended.err) == (0, "")
    found = json.loads(ended.out)
    assert found["problems"] == []
    assert EXACT in found["stores"]
    assert [row["name"] for row in found["stores"]] == list(BUILT_IN)


def test_stores_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    ended = call(capsys, "stores")
    assert (ended.code, ended.err) == (0, "")
    assert "problem" not in ended.out
    [row] = [line for line in ended.out.splitlines() if "fotmem_exact" in line]
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "exact",
        "fotmem_exact",
        "yes",
        "no",
        "cpu, cuda",
        "yes",
    ]


@pytest.mark.parametrize("gpu", [True, False])
def test_stores_says_whether_faiss_searches_on_the_gpu(
    gpu: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    faiss = pytest.importorskip("faiss")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: int(gpu), raising=False)
    out = " ".join(call(capsys, "stores").out.replace("│", " ").split())
    assert ("on the GPU" in out) == gpu
    assert ("pip uninstall faiss-cpu" in out) != gpu


def test_the_message_about_a_missing_library_has_a_cure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "hnswlib", None)
    [row] = [
        row
        for row in json.loads(call(capsys, "stores", "--json").out)["stores"]
        if row["name"] == "hnsw"
    ]
    assert not row["available"]
    assert row["reason"] == "needs hnswlib, not installed: pip install 'fotmem[hnsw]'"


def test_a_broken_plugin_is_reported_and_the_others_work(
    plugins: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = call(capsys, "stores", "--json")
    assert (ended.code, ended.err) == (0, "")
    reason = "needs not_there, not installed: pip it[all]"
    found = json.loads(ended.out)
    built_in = found["stores"][: len(BUILT_IN)]
    assert EXACT in built_in
    assert found == {
        "stores": [
            *built_in,
            {"name": "good-store", "plugin": "good", "available": True, "reason": ""},
            {"name": "absent", "plugin": "poor", "available": False, "reason": reason},
        ],
        "problems": [
            {
                "plugin": "broken",
                "reason": "cannot be loaded: RuntimeError: [bold]boom[/bold], twice",
            }
        ],
    }


def test_a_broken_plugin_is_reported_below_the_table(
    plugins: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    ended = call(capsys, "stores")
    assert (ended.code, ended.err) == (0, "")
    assert "needs not_there, not installed: pip it[all]" in ended.out
    assert ended.out.splitlines()[-1] == (
        "problem in plugin broken: cannot be loaded: RuntimeError: [bold]boom[/bold], twice"
    )


def test_a_store_whose_package_is_missing_says_how_to_get_it(
    plugins: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, 1, "ask", "any", "Q", "--text", text, "--store", "absent")
    assert line == "'absent' is not available here: needs not_there, not installed: pip it[all]"


# Wrong usage

ASK = "ask any Q --text {text}"
PASSKEY = "eval passkey any --text {text}"
WRONG = {  # the words are typer's, and differ between its versions
    "asks any": "No such command 'asks'",
    "eval passkeys": "No such command 'passkeys'",
    "stores extra": "; try 'fotmem stores --help'",
    "stores --jsn": "No such option: --jsn",
    "--quiet": "No such option: --quiet; try 'fotmem --help'",
    "ask": "Missing argument 'MODEL'; try 'fotmem ask --help'",
    "ask any": "Missing argument 'QUESTION'",
    "ask any Q": "expected texts for a model, or the directory of a memory in place of the model",
    "ask any Q --text": "Option '--text' requires an argument",
    "capture any": "Missing option '--out'; try 'fotmem capture --help'",
    "ask any Q notes.txt": "got notes.txt besides the arguments, did you mean --text notes.txt?; t",
    "train any notes.txt": "Missing option '--data'",
    f"{ASK} --window 1": "'--window': expected an integer of at least 2, got 1; try",
    f"{ASK} --window wide": "'--window': expected an integer of at least 2, got 'wide'; try",
    f"{ASK} --window 1.5": "'--window': expected an integer of at least 2, got 1.5; try",
    f"{ASK} --window 1 --layers 1": "'--window': expected an integer of at least 2, got 1; try",
    f"{ASK} --decay=-1": "'--decay': expected a number of at least 0, got -1; try",
    f"{ASK} --temperature hot": "'--temperature': expected a number, got 'hot'; try",
    f"{ASK} --dtype int8": "Invalid value for '--dtype': ",
    f"{ASK} --temperature 0": "Invalid value for '--temperature': expected a number above 0",
    f"{ASK} --max-new-tokens 0": "'--max-new-tokens': expected an integer of at least 1, got 0",
    f"{PASSKEY} --seed -1": "'--seed': expected an integer from 0 to 4,294,967,295, got -1; try",
    "select any --text t --tokens 9 --max-error 2": "expected a number from 0 to 1, got 2; try",
    "plugin check exact --min-recall x": "'--min-recall': expected a number from 0 to 1, got 'x'",
    f"{PASSKEY} --tokens 0": "Invalid value for '--tokens': ",
    f"{PASSKEY} --trials 0": "'--trials': expected an integer of at least 1, got 0; try",
    f"{PASSKEY} --seed x": "'--seed': expected an integer from 0 to 4,294,967,295, got 'x'; try",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_wrong_usage_is_described_in_one_line(
    arguments: str, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, 2, *arguments.format(text=text).split())
    assert WRONG[arguments] in line


NO_LAYERS = ["x-y", "a", "5-3", "5-3,1", "", ",", "1,", "1-", "-1", "1-2-3", "1.5", "0-999999999"]


@pytest.mark.parametrize("command", [ASK, PASSKEY])
@pytest.mark.parametrize("layers", NO_LAYERS)
def test_invalid_layers_are_refused(
    command: str, layers: str, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, 2, *command.format(text=text).split(), f"--layers={layers}")
    assert line.startswith(
        f"Invalid value for '--layers': expected layers such as 17,18,20 or 14-25, got {layers!r};"
    )


@pytest.mark.parametrize("command", [ASK, PASSKEY])
@pytest.mark.parametrize("top_k", ["0", "-1", "abc", "", "1.5", "²", "ALL"])
def test_invalid_top_k_is_refused(
    command: str, top_k: str, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, 2, *command.format(text=text).split(), f"--top-k={top_k}")
    assert line.startswith(
        f"Invalid value for '--top-k': expected a number of at least 1, or all, got {top_k!r};"
    )


@pytest.mark.parametrize(
    "question, reason", [("", "a question, got none"), (" ", "a question"), ("\udcff", "UTF-8")]
)
def test_an_invalid_question_is_refused(
    question: str, reason: str, text: Path, capsys: Any
) -> None:
    line = refusal(capsys, 2, "ask", "any", question, "--text", text)
    assert line.startswith(f"Invalid value for 'QUESTION': expected {reason}")


@pytest.mark.parametrize("command", [ASK, PASSKEY])
def test_an_unknown_store_is_refused_before_a_model_is_loaded(
    command: str, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, 1, *command.format(text=text).split(), "--store", "exat")
    known = ", ".join(sorted(BUILT_IN))
    assert line == f"no store is named 'exat'; did you mean 'exact'? (the stores are: {known})"


# What options mean


@pytest.mark.parametrize(
    "given, layers",
    [
        (None, None),
        ("14-25", [14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25]),
        ("1,3", [1, 3]),
        ("1-2,4", [1, 2, 4]),
        ("4, 1-2", [4, 1, 2]),
        ("7-7", [7]),
        ("0", [0]),
    ],
)
def test_layers_include_both_ends(given: str | None, layers: list[int] | None) -> None:
    assert parsing.parse_layers(given) == layers


@pytest.mark.parametrize("given, top_k", [("1", 1), ("32", 32), ("all", None)])
def test_top_k(given: str, top_k: int | None) -> None:
    assert parsing.parse_top_k(given) == top_k


# Texts


def test_texts_are_joined_in_order_without_byte_order_marks(tmp_path: Path) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_bytes("\ufeffDie Möwe.".encode())
    two.write_bytes(b"The gull.\r\nIt flies.")
    assert loading.read_texts([two, one]) == "The gull.\nIt flies.\n\nDie Möwe."


@pytest.mark.parametrize(
    "content, reason",
    [
        (
            None,
            "{path} cannot be read: No such file or directory; check its name",
        ),
        (b"", "{path} is empty; name a file that has text"),
        (b" \n\t\n", "{path} is empty; name a file that has text"),
        (b"\x7fELF\x02\x01\0\0", "{path} is binary, not text; convert it to a UTF-8 text first"),
        (b"\x89PNG\r\n", "{path} is not UTF-8 text (byte 0); convert it first"),
        ("Die Möwe".encode("latin-1"), "{path} is not UTF-8 text (byte 5); convert it first"),
        ("Die Möwe".encode("utf-16"), "{path} is not UTF-8 text (byte 0); convert it first"),
    ],
)
def test_a_file_that_is_not_text_is_refused(
    content: bytes | None, reason: str, text: Path, tmp_path: Path, capsys: Any
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    line = refusal(capsys, 1, "ask", "any", "--text", text, "--text", path, "Q")
    assert line == reason.format(path=path)


def test_a_directory_in_place_of_a_text_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, 1, "eval", "passkey", "any", "--text", tmp_path)
    assert line == f"{tmp_path} cannot be read: Is a directory; name a file in it"


# The process


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


# The demo


@pytest.fixture
def tiny_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    loaded = folders.model(max_position_embeddings=1024), folders.tokenizer()
    monkeypatch.setattr(demo, "load_quietly", lambda name: loaded)
    monkeypatch.setattr(demo, "TOKENS", 700)
    monkeypatch.setenv("COLUMNS", "120")


def test_the_demo_shows_answers_and_sources(
    tiny_demo: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0)
    ended = call(capsys, "demo")
    assert ended.code == 0
    assert ended.err.split()[0] == "reading:"
    parts = [part for part in ended.out.split("─── ") if part]
    titles = [part.partition(" ───")[0] for part in parts[1:]]
    assert titles == [
        "without memory",
        "reading into memory",
        "with memory, top-k 16",
        "with memory, all of it",
        "result",
    ]
    for _, _, truth in demo.FACTS:
        assert ended.out.count(f"(expected {truth})") == 3
    assert ended.out.count(" sources ") == 2 * len(demo.FACTS)
    assert ended.out.count("0 of 4 answers correct") == 3
    assert "in the memory of layers 1, 3: read in " in ended.out
    again = call(capsys, "demo", "--store", "zarr")
    assert (again.code, again.err) == (0, "")
    assert re.search(r"opened in [\d.]+ s; the first demo read it in [\d.]+ s", again.out)


def test_the_demo_reads_again_if_what_it_kept_is_of_no_use(
    tiny_demo: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "fotmem/demo"
    for harm in (
        lambda: (kept / "memory/zarr.json").write_text("{}"),
        (kept / "reading.json").unlink,
        lambda: None,
    ):
        assert ": read in " in call(capsys, "demo").out
        harm()
    assert "opened in" in call(capsys, "demo").out


def test_the_demo_hides_its_facts_at_the_printed_places() -> None:
    tokenizer = folders.tokenizer()
    text, hidden = demo._text(tokenizer)
    assert len(text) > demo.TOKENS
    for fact, (statement, question, truth) in zip(hidden, demo.FACTS, strict=True):
        begin, end = fact.place.start, fact.place.stop
        assert tokenizer.decode(text[begin:end]) == f" {truth}"
        assert f" {statement.format(truth)} " in str(tokenizer.decode(text[begin - 99 : end + 9]))
        assert tokenizer.decode(fact.question) == f" {question}"
        assert end <= len(text) - LOCAL


def test_the_demo_counts_correct_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = folders.tokenizer()
    text, hidden = demo._text(tokenizer)
    said = iter(["hedgehog", "4821", "lighthouse", "a lighthouse"])
    monkeypatch.setattr(
        "fotmem.tasks.answer.answer_question", lambda *a, **b: Answer(next(said), [])
    )
    console = Console(quiet=True)
    right = demo._ask_all(console, folders.model(), tokenizer, text[-16:], hidden, None)
    assert right == 2
