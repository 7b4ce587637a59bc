"""What the command line refuses, and what its options mean."""

from pathlib import Path
from typing import Any

import pytest

import fotmem
from fotmem.cli import loading, parsing
from tests.commands import refusal
from tests.tiny import one_thread  # noqa: F401 - a fixture


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("A captain sailed to the island.\n", encoding="utf-8")
    return path


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
    f"{ASK} --decay=-1": "'--decay': expected a number of at least 0, such as 0.7, or one by "
    "layer, such as 17:0.7,18:0.7; got '-1'; try",
    f"{ASK} --temperature hot": "'--temperature': expected a number, got 'hot'; try",
    f"{ASK} --dtype int8": "Invalid value for '--dtype': ",
    f"{ASK} --temperature 0": "Invalid value for '--temperature': expected a number above 0",
    f"{ASK} --max-new-tokens 0": "'--max-new-tokens': expected an integer of at least 1, got 0",
    f"{PASSKEY} --seed -1": "'--seed': expected an integer from 0 to 4,294,967,295, got -1; try",
    "select any --text t --tokens 9 --max-error 2": "expected a number from 0 to 1, got 2; try",
    "plugin check exact --min-recall x": "'--min-recall': expected a number from 0 to 1, got 'x'",
    f"{PASSKEY} --tokens 0": "Invalid value for '--tokens': ",
    f"{PASSKEY} --trials 0": "'--trials': expected an integer from 1 to 10,000, got 0; try",
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
    known = ", ".join(sorted(fotmem.available_stores()))
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
