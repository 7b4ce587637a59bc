"""What all evaluations share: nothing is refused late, and no report is lost."""

import json
from pathlib import Path
from typing import Any

import pytest

from fotmem.measure.evaluate import passkey
from tests import folders
from tests.commands import call, refusal
from tests.tiny import one_thread  # noqa: F401 - a fixture

PASSAGE = folders.PROSE[1000:1040]
QUESTION = {"question": "Who?", "answers": [max(PASSAGE.split(), key=len)], "passage": PASSAGE}
TASKS: dict[str, list[object]] = {
    "passkey": ["--tokens", 200],
    "facts": ["--tokens", 600, "--facts", 3],
    "perplexity": ["--tokens", 64, "--scored", 64],
    "ruler": ["--tokens", 400, "--tasks", "niah_single_1"],
    "questions": ["--questions", "questions.jsonl", "--tokens", 400],
}
WRONG: dict[str, list[object]] = {
    "99": ["--layers", "99"],
    "window": ["--window", 100_000],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = folders.write(tmp_path / "model", max_position_embeddings=1024)
    Path("text.txt").write_text(folders.PROSE[:6000], encoding="utf-8")
    Path("questions.jsonl").write_text(json.dumps(QUESTION), encoding="utf-8")
    return folder


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("task", TASKS)
def test_a_wrong_memory_is_refused_before_anything_is_answered(
    task: str,
    wrong: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("transformers.LlamaForCausalLM.forward", pytest.fail)
    given = ["eval", task, folder, "--text", "text.txt", *TASKS[task], *WRONG[wrong]]
    assert wrong in refusal(capsys, 1, *given)


@pytest.mark.parametrize("task", ["passkey", "perplexity", "ruler"])
def test_stores_are_not_compared_where_nothing_is_searched(
    task: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(
        capsys,
        1,
        *("eval", task, folder, "--text", "text.txt", *TASKS[task], "--window", 32),
        *("--recent", 390, "--stores", "exact,hnsw"),
    )
    assert "expected more than 406 tokens where stores are compared, got" in line


def test_a_report_stays_until_the_next_one_is_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["eval", "passkey", folder, "--text", "text.txt", "--window", 32, "--trials", 1]
    given += ["--tokens", "100,200", "--report", "report.json"]
    assert call(capsys, *given).code == 0
    report, part = Path("report.json"), Path("report.json.part")
    before, calls, score = report.read_bytes(), [0], passkey.score
    assert not part.exists()

    def score_once(*args: Any, **how: Any) -> passkey.PasskeyAnswer:
        calls.append(calls.pop() + 1)
        if calls[0] > 1:
            raise RuntimeError
        return score(*args, **how)

    monkeypatch.setattr(passkey, "score", score_once)
    with pytest.raises(RuntimeError):
        call(capsys, *given)
    assert report.read_bytes() == before
    assert [row["tokens"] for row in json.loads(part.read_bytes())["rows"]] == [100]
    monkeypatch.undo()
    monkeypatch.chdir(folder.parent)
    assert call(capsys, *given).code == 0
    assert report.read_bytes() != before
    assert not part.exists()


def test_rows_so_far_do_not_replace_what_is_no_report(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("report.json.part").write_text("mine", encoding="utf-8")
    given = ["eval", "passkey", folder, "--text", "text.txt", "--tokens", 100]
    line = refusal(capsys, 1, *given, "--report", "report.json")
    assert line.startswith("report.json.part is not a report of fotmem eval")
    assert Path("report.json.part").read_text(encoding="utf-8") == "mine"
