"""The scripts that make the reports of the documentation."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fotmem.cli import app
from recipes import ablation, reports, smollm2_report
from recipes.smollm2_report import CURVES


def passkey_row(tokens: int, right: float, *, memory: bool) -> dict[str, Any]:
    interval = [max(0.0, right - 0.1), min(1.0, right + 0.1)]
    return {
        "tokens": tokens,
        "memory": memory,
        "answer_accuracy": right,
        "answer_interval": interval,
    }


def test_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2_report, "PICTURE", tmp_path / "passkey.png")
    rows = [passkey_row(size, 0.9, memory=on) for size in (4096, 16_384) for on in (False, True)]
    smollm2_report.draw({name: rows for name, *_ in CURVES})
    assert (tmp_path / "passkey.png").read_bytes().startswith(b"\x89PNG")


def test_the_figures_of_card_and_readme() -> None:
    rows = {
        name: [passkey_row(4583, 0.9, memory=on) for on in (False, True)] for name, *_ in CURVES
    }
    rows["passkey-tuned"].append(passkey_row(16_871, 0.5, memory=True))
    rows["facts-tuned"] = [{"kind": "all", "facts": 32} | passkey_row(16_384, 0.9, memory=True)]
    losses = {"base-near": 18.0, "base": 17.0, "tuned": 16.954, "tuned-attend": 16.0}
    for name, found in losses.items():
        rows[f"perplexity-{name}"] = [{"tokens": 0, "perplexity": found}]
    rows["perplexity-tuned"].append({"tokens": 4096, "perplexity": 15.5})
    written = "".join(smollm2_report.figures(rows))
    right = "0.90 (0.80 to 1.00)"
    assert f"| 4,096 | {right} | {right} | {right} | {right} |\n" in written
    assert "| 16,384 |  |  |  | 0.50 (0.40 to 0.60) |\n" in written
    assert f"| all | 32 | {right} |\n" in written
    assert "| none | 18.00 | 17.00 | 16.95 | 16.00 |\n| 4,096 |  |  | 15.50 |  |\n" in written
    for command in smollm2_report.MEASURED.values():
        assert f"    fotmem eval {command} --text FILE\n" in written
    for page in (smollm2_report.CARD, smollm2_report.README, ablation.PAGE):
        assert page.read_text().count("<!-- figures, by make ") == 2


def test_what_is_measured_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: list[list[str]] = []

    def run_and_write(words: list[str], *, check: bool) -> None:
        run.append(words)
        file = Path(words[words.index("--report") + 1])
        file.write_text(json.dumps({"rows": [{"tokens": 5}]}))

    monkeypatch.setattr("recipes.reports.subprocess.run", run_and_write)
    for _ in range(2):
        assert reports.measured(tmp_path / "one.json", "passkey x --tokens 5", ["a b.txt"]) == [
            {"tokens": 5}
        ]
    [words] = run
    assert words[3:8] == ["eval", "passkey", "x", "--tokens", "5"]
    assert words[8:10] == ["--text", "a b.txt"]


@pytest.mark.parametrize("command", smollm2_report.MEASURED.values())
def test_commands_are_understood(command: str, tmp_path: Path) -> None:
    """All options are known: what is missed is the text, which comes last."""
    words = ["eval", *shlex.split(command), "--text", str(tmp_path / "none.txt")]
    ended = CliRunner().invoke(app, words)
    assert "none.txt" in ended.output + str(ended.exception)


def test_the_table_of_the_ablation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{ablation.FIGURES}old\n{ablation.FIGURES}after\n")
    monkeypatch.setattr(ablation, "PAGE", page)
    monkeypatch.setattr(ablation, "BUILD", tmp_path)
    monkeypatch.setattr("sys.argv", ["ablation", "book.txt"])
    trained: list[str] = []
    monkeypatch.setattr(ablation, "_train", lambda name, output: trained.append(name))

    def measured(file: Path, command: str, texts: list[str]) -> list[dict[str, Any]]:
        assert texts == ["book.txt"]
        right = 0.5 if "bank" in file.name else 0.2
        rows = [passkey_row(16_871, 0.0, memory=False), passkey_row(16_871, right, memory=True)]
        if command.startswith("facts"):
            return [row | {"kind": kind} for row in rows for kind in ("3 digits", "all")]
        return [row | {"perplexity": 16.954} for row in rows]

    monkeypatch.setattr(ablation, "measured", measured)
    ablation.main()
    assert trained == list(ablation.VARIANTS)
    poor, good = "0.20 (0.10 to 0.30)", "0.50 (0.40 to 0.60)"
    written = page.read_text()
    assert written.startswith(
        f"before\n{ablation.FIGURES}\n|  | positives only | and negatives | and a bank |\n"
    )
    for label in ("pass key, all of memory, 16,384 tokens", "32 facts in 16,384 tokens, top-k 16"):
        assert f"| {label} | {poor} | {poor} | {good} |\n" in written
    assert "| perplexity, no memory | 16.95 | 16.95 | 16.95 |\n" in written
    assert written.endswith(f"|\n\n{ablation.FIGURES}after\n")


def test_variants_differ_in_negatives_only() -> None:
    options = {name: ablation.options(name) for name in ablation.VARIANTS}
    kept = [one.model_copy(update={"d": (1,), "bank_windows": (0,)}) for one in options.values()]
    assert kept[0] == kept[1] == kept[2]
    assert len({(one.d, one.bank_windows) for one in options.values()}) == 3
