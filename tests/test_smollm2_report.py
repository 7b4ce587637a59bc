"""How `smollm2-fot` is measured on texts that nothing was chosen on."""

import hashlib
import json
import math
import re
import shlex
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fotmem.cli.commands import app
from fotmem.errors import InputError
from fotmem.measure.bench.figures import Figure
from fotmem.measure.evaluate.intervals import ratio_interval
from fotmem.measure.evaluate.perplexity import PerplexityRow
from fotmem.measure.evaluate.report import write_report
from fotmem.measure.evaluate.ruler.tasks import NEEDLES
from recipes import smollm2_report
from recipes.smollm2_evaluations import EVALUATIONS, Evaluation, seed_of
from recipes.smollm2_picture import draw
from recipes.smollm2_report import FIGURES, PAGES, QUICK, REPORTS, rows_of
from recipes.text_tables import (
    TABLES,
    UNKNOWN,
    Cell,
    Pair,
    Table,
    beside_window,
    cost,
    cost_of_ways,
    exact_match,
    instead,
    perplexities,
    saved_loss,
    shares,
    steps,
    tables,
    ways,
)
from recipes.texts.making import Made
from recipes.texts.making import notes as notes_of_texts

ROOT = Path(__file__).parents[1]
QUESTIONS = "recipes/questions/test/manual.jsonl"
COMMANDS = {
    evaluation.words(length, "manual", "7").replace(QUESTIONS, "QUESTIONS")
    for chosen in (EVALUATIONS, QUICK)
    for evaluation in chosen.values()
    for length in evaluation.lengths
}
ONE = {
    "passkey": Evaluation(
        "passkey one --trials {asked}", ("4k", "1M"), ("4k",), asked=100, drawn=False
    )
}
SAME = {"same": ONE["passkey"], "unmeasured": Evaluation("facts one", (), ())}
SHOWN = [Table("Pass key", ("passkey", "same", "unmeasured"), exact_match)]


def passkey_row(tokens: int, right: float, *, memory: bool = True) -> dict[str, Any]:
    interval = [max(0.0, right - 0.1), min(1.0, right + 0.1)]
    about = {"tokens": tokens, "memory": memory, "trials": 100}
    return about | {"exact_match": right, "exact_match_interval": interval}


def report_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"task": "passkey", "options": {}, "rows": rows}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_commands_are_understood(command: str, tmp_path: Path) -> None:
    """All options are known: what is missed is the text, which comes last."""
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question": "Who?", "answers": ["He"], "passage": "he"}\n')
    words = shlex.split(command.replace("QUESTIONS", str(questions)))
    words = ["eval", *words, "--text", str(tmp_path / "none.txt")]
    ended = CliRunner().invoke(app, words)
    assert "none.txt" in ended.output + str(ended.exception)


def test_a_mean_has_a_hundred_trials_and_every_evaluation_a_table() -> None:
    for name, evaluation in EVALUATIONS.items():
        tasks = len(NEEDLES) if name.startswith("ruler") else 1
        assert 8 * evaluation.asked * tasks >= 100 or name.startswith("perplexity")
    assert {name for each in TABLES for name in each.evaluations} == {*EVALUATIONS}


def test_what_a_text_must_have_and_how_long_it_takes() -> None:
    shared = Evaluation("", ("4k",), (), readings=4, asked=100)
    assert shared.needed("4k") == 4096
    assert shared.seconds("4k") == pytest.approx(4 * 4096 / 700 + 300)
    apart = Evaluation("", ("2k,4k",), ("2k",), readings=3, asked=0, passes=2, scored=1000)
    assert apart.needed("2k,4k") == 3 * 5096
    assert apart.seconds("2k,4k") == pytest.approx(3 * 2 * 6144 / 700)
    assert apart.quickened() == apart._replace(lengths=("2k",), readings=1)
    assert shared.quickened().asked == 5


def test_each_text_the_mean_and_the_worst() -> None:
    good = [passkey_row(4096, 0.9), passkey_row(8192, 0.8)]
    good += [passkey_row(tokens, 0.0, memory=False) for tokens in (4096, 8192)]  # 200 trials
    poor = [passkey_row(4096, 0.0, memory=False), passkey_row(4096, 0.5)]
    found = {"manual": {"passkey": good}, "tables": {"passkey": poor}, "none": {}}
    assert tables(found, ONE | SAME, [*SHOWN, Table("None", ("facts",), exact_match)]) == (
        "**Pass key**\n\n"
        "| text | without memory | 4,096 | 8,192 |\n"
        "| --- | --- | --- | --- |\n"
        "| manual | 0.00 (0.00 to 0.02) | 0.90 (0.80 to 1.00) | 0.80 (0.70 to 0.90) |\n"
        "| tables | 0.00 (0.00 to 0.04) | 0.50 (0.40 to 0.60) |  |\n"
        "| **mean** | 0.00 (0.00 to 0.01) (2 of 3 texts) | 0.70 (0.63 to 0.76) (2 of 3 texts) "
        "| 0.80 (0.71 to 0.87) (1 of 3 texts) |\n"
        "| **worst** | 0.00 (manual) | 0.50 (tables) | 0.80 (manual) |\n"
        "\n    fotmem eval passkey one --trials 100 --tokens LENGTH --text FILE\n"
    )


def test_figures_are_those_of_all_facts() -> None:
    rows = [
        passkey_row(4096, right) | {"kind": kind} for kind, right in (("4 digits", 0), ("all", 1))
    ]
    assert exact_match(rows) == {"4,096": Cell(Figure(1, 0.9, 1), 100)}
    assert exact_match(rows, kind="4 digits")["4,096"].figure.value == 0


def test_the_loss_that_memory_saves_and_its_share() -> None:
    about: dict[str, Any] = {"store": "exact", "perplexity": 9.0, "scored": 5, "seconds": 1.0}
    half, most = Figure(0.5, 0.4, 0.6), Figure(0.9, 0.8, 1.0)
    about |= {"difference": -0.2, "difference_interval": (-0.3, -0.1)}
    rows = [
        PerplexityRow(tokens=tokens, memory=tokens > 0, window=window, share=share, **about)
        for window in (512, 2048)
        for tokens, share in ((0, None), (4096, half), (8192, most))
    ]  # fmt: skip
    found = json.loads(json.dumps([row.__dict__ for row in rows]))
    saved, share = Cell(Figure(0.2, 0.1, 0.3)), Cell(Figure(0.5, 0.4, 0.6))
    assert saved_loss(found, window=512) == dict.fromkeys(("4,096", "8,192"), saved)
    assert shares(found, tokens=4096) == dict.fromkeys(("512", "2,048"), share)


def test_the_score_with_memory_and_in_the_window() -> None:
    score = {"with_memory": 0.5, "with_memory_interval": [0.4, 0.6], "tokens": 4096}
    score |= {"in_window": 0.8, "in_window_interval": [0.7, 0.9], "trials": 5}
    score |= {"share": 0.625, "share_interval": [0.3, 0.9], "apart": 0.3}
    found = beside_window([score | {"task": task} for task in ("vt", "needles")])
    expected = {
        "4,096": Cell(Figure(0.5, 0.4, 0.6), 5),
        "4,096, in window": Cell(Figure(0.8, 0.7, 0.9), 5),
        "4,096, share": Cell(Figure(0.625, 0.3, 0.9), 5, Pair(0.5, 0.8, 0.3)),
    }
    assert found == expected
    assert beside_window([score | {"task": "vt"}]) == {}
    other = beside_window([score | {"task": "vt"}, score | {"task": "needles"}], others=True)
    assert other == {f"vt, {column}": cell for column, cell in expected.items()}
    unknown = beside_window([score | {"share": None, "share_interval": None}])["4,096, share"]
    assert math.isnan(unknown.figure.value)
    assert beside_window([{"way": "bm25", "task": "needles", "tokens": 4096}]) == {}


def test_perplexity_beside_that_of_the_untuned_model() -> None:
    def row(name: str, perplexity: float, **about: Any) -> dict[str, Any]:
        made = {"evaluation": name, "perplexity": perplexity, "window": 512, "tokens": 0}
        return made | {"memory": False, "sliding": False} | about

    def losses(*given: float) -> dict[str, list[float]]:
        return {"block_losses": list(given)}

    rows = [
        row("perplexity-base", 20.0) | losses(3.0, 2.0),
        row("perplexity-base", 16.0, window=2048, sliding=True),
        row("perplexity", 20.0 * math.exp(0.25)) | losses(3.3, 2.2),
        row("perplexity", 15.0, tokens=4096, memory=True),
        row("perplexity", 14.0, tokens=16384, memory=True),
        row("perplexity", 18.0, window=2048),  # not measured for the untuned model
    ]
    shown = {column: round(cell.figure.value, 2) for column, cell in perplexities(rows).items()}
    assert shown == {
        "untuned: 512": 20.0,
        "untuned: 2,048, sliding": 16.0,
        "tuned: 512": 25.68,
        "tuned: 512, 4,096 in memory": 15.0,
        "tuned: 2,048": 18.0,
    }
    (column, cell), *none = cost(rows).items()
    assert not none
    assert column == "window 512"
    assert cell.figure.value == pytest.approx(0.25)
    assert cell.figure.high - 0.25 == pytest.approx(12.706 * 0.1 / 2**0.5 / 2**0.5, rel=1e-3)


def test_what_more_tokens_in_memory_change() -> None:
    """Each number of tokens beside the next smaller one, block by block."""
    losses = {4096: [3.0, 2.0, 1.0], 2048: [3.2, 2.1, 1.3], 0: [9.0, 9, 9], 16_384: [3.0, 2.0, 1.0]}
    rows = [
        {"tokens": tokens, "memory": tokens > 0, "block_losses": each}
        for tokens, each in losses.items()
    ]
    found = steps(rows)
    assert list(found) == ["4,096 instead of 2,048", "16,384 instead of 4,096"]
    value, low, high = found["4,096 instead of 2,048"].figure
    assert value == pytest.approx(-0.2)
    assert (value - low, high - value) == pytest.approx([4.303 * 0.1 / 3**0.5] * 2, rel=1e-3)
    assert found["16,384 instead of 4,096"].figure == (0, 0, 0)


def test_means_of_unequal_trials_and_of_figures_without_trials() -> None:
    def shown(cells: dict[str, Cell], best: Any = max) -> str:
        rows = {text: {"a": [{"cell": cell}]} for text, cell in cells.items()}
        table = Table("T", ("a",), lambda rows: {"c": rows[0]["cell"]}, best)
        return tables(rows, {}, [table])

    few, many = Cell(Figure(0.0, 0, 1), 10), Cell(Figure(1.0, 0, 1), 90)
    # The variance of the mean is that of 4 / (1 / 10 + 1 / 90) = 36 trials.
    assert "| **mean** | 0.50 (0.34 to 0.66) |" in shown({"x": few, "y": many})
    close = {"x": Cell(Figure(0.4, 0.1, 0.7)), "y": Cell(Figure(0.8, 0.4, 1.2))}
    assert "| **mean** | 0.60 (0.35 to 0.85) |" in shown(close)
    skewed = {text: Cell(Figure(0.6, 0.1, 0.7)) for text in "xy"}
    assert "| **mean** | 0.60 (0.25 to 0.67) |" in shown(skewed)
    ratios = {
        "x": Cell(Figure(2.0, 1, 3), 50, Pair(0.2, 0.1, 0.1)),
        "y": Cell(Figure(0.5, 0.3, 0.8), 50, Pair(0.4, 0.8, 0.4)),
        "z": Cell(UNKNOWN, 50, Pair(0.0, 0.0, 0.0)),
    }
    table = shown(ratios)
    low, high = ratio_interval(30, 45, 25) or (0, 0)
    assert f"| **mean** | 0.67 ({low:.2f} to {high:.2f}) |" in table
    assert "| **worst** | 0.50 (y) |" in table
    assert "| z |  |" in table
    bare = {"x": Cell.bare(3.0), "y": Cell.bare(5.0)}
    assert "| **mean** | 4.00 |\n| **worst** | 5.00 (y) |" in shown(bare, min)


def test_each_text_has_its_own_seed() -> None:
    names = (
        "argument",
        "code",
        "dialogue",
        "foreign",
        "manual",
        "narrative",
        "reference",
        "tables",
    )
    seeds = {seed_of(name) for name in names}
    assert len(seeds) == 8
    assert "0" not in seeds  # that of the training
    for name, evaluation in EVALUATIONS.items():
        words = evaluation.words(evaluation.lengths[0], "manual", "7")
        assert ("--seed 7" in words) is not name.startswith("perplexity")


def test_other_ways_to_answer() -> None:
    row = {"tokens": 4096, "score": 0.5, "score_interval": [0.4, 0.6], "questions": 7}
    rows = [passkey_row(4096, 0.9), *(row | {"way": way} for way in ("memory", "bm25"))]
    half = Cell(Figure(0.5, 0.4, 0.6), 7)
    assert ways(rows) == dict.fromkeys(("memory", "bm25"), half)
    rows[1:] = [each | {"task": "facts"} for each in rows[1:]]
    assert instead([*rows, rows[1] | {"task": "niah_multiquery"}]) == {
        "memory, 4,096": half,
        "bm25, 4,096": half,
    }
    rows[1] |= {"kept_bytes": 3_000_000}
    (kept,) = cost_of_ways(rows[:2], field="kept_bytes", unit=1e6).values()
    assert kept.figure.value == 3.0
    assert exact_match(rows) == {"4,096": Cell(Figure(0.9, 0.8, 1.0), 100)}


def test_the_picture(tmp_path: Path) -> None:
    rows = [passkey_row(size, 0.9, memory=on) for size in (4096, 16_384) for on in (False, True)]
    texts = {"one": {"passkey-base": rows, "passkey": rows}, "two": {"passkey": rows[:2]}}
    draw(texts, tmp_path / "passkey.png")
    assert (tmp_path / "passkey.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of two texts; pages, reports and evaluations are those of a test."""
    (tmp_path / "test").mkdir()
    (tmp_path / "test/long.txt").write_text("word " * 20)
    (tmp_path / "test/short.txt").write_text("word")
    notes = {
        f"test/{file.stem}": Made(
            100, hashlib.sha256(file.read_bytes()).hexdigest(), {"book": "1.2"}
        )._asdict()
        for file in (tmp_path / "test").iterdir()
    }
    (tmp_path / "texts.json").write_text(json.dumps(notes))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{FIGURES}old\n{FIGURES}after\n")
    one = {"passkey": ONE["passkey"]._replace(lengths=("2", "10"))}
    for name, value in {
        "PAGES": {page: SHOWN},
        "REPORTS": tmp_path / "reports",
        "OTHER_REPORTS": tmp_path / "other",
        "EVALUATIONS": one,
        "QUICK": {name: each.quickened()._replace(lengths=("1",)) for name, each in one.items()},
        "draw": lambda found: None,
        "load_model": lambda name: (None, lambda text, **_: {"input_ids": text.split()}),
        "token_ids": lambda tokenizer, text: text.split(),
    }.items():
        monkeypatch.setattr(smollm2_report, name, value)
    return tmp_path / "test"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the commands that are run; each finds half of the numbers."""
    commands: list[str] = []

    def evaluate(words: list[str], file: Path, **options: Any) -> None:
        commands.append(" ".join(words))
        row = passkey_row(int(words[words.index("--tokens") + 1]), 0.5)
        write_report(file, report_of([row]))

    monkeypatch.setattr("recipes.reports.evaluate", evaluate)
    return commands


def test_a_text_is_measured_as_far_as_it_goes_and_once(
    folder: Path, run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        smollm2_report.main(folder)
    long, command = folder / "long.txt", "passkey one --trials 100 --tokens"
    assert run == [f"{command} {length} --text {long}" for length in (2, 10)]
    printed = capsys.readouterr().out
    assert printed.startswith("2 of 2 reports are missing: about 0.2 hours\n0 of 2")
    written = (folder.parent / "page.md").read_text()
    digests = [hashlib.sha256(text).hexdigest()[:12] for text in (b"word " * 20, b"word")]
    listed = [
        f"- `{name}`: book 1.2; SHA-256 {digest}\n"
        for name, digest in zip(("long", "short"), digests, strict=True)
    ]
    assert written.startswith(f"before\n{FIGURES}\n{''.join(listed)}\n**Pass key**\n")
    assert "| long | 0.50 (0.40 to 0.60) | 0.50 (0.40 to 0.60) |\n" in written
    assert written.endswith(f"--text FILE\n\n{FIGURES}after\n")


def test_a_quick_report_changes_no_page(
    folder: Path, run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder.parent / "page.md").read_text()
    smollm2_report.main(folder, quick=True)
    assert [command.split(" --text")[0] for command in run] == [
        "passkey one --trials 5 --tokens 1"
    ] * 2
    assert (folder.parent / "page.md").read_text() == before
    assert not (folder.parent / "reports").exists()
    printed = capsys.readouterr().out
    assert "**Pass key, by tokens of text**\n" in printed
    assert "| **worst** | 0.50 (long) |\n" in printed


@pytest.mark.parametrize("change", ["other", "one of two", "unknown"])
def test_texts_that_are_not_the_test_texts_change_no_page(
    folder: Path, run: list[str], change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder.parent / "page.md").read_text()
    if change == "other":
        (folder / "long.txt").write_text("words " * 20)
    elif change == "one of two":
        (folder / "short.txt").unlink()
    else:
        (folder.parent / "texts.json").unlink()
    smollm2_report.main(folder)
    assert len(run) == 2
    assert (folder.parent / "page.md").read_text() == before
    assert not (folder.parent / "reports").exists()
    assert "**Pass key, by tokens of text**\n" in capsys.readouterr().out


def test_reports_of_another_text_or_command_are_refused(
    folder: Path, run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    smollm2_report.main(folder)
    changed = {"passkey": ONE["passkey"]._replace(lengths=("2",), asked=7)}
    with monkeypatch.context() as patch:
        patch.setattr(smollm2_report, "EVALUATIONS", changed)
        with pytest.raises(SystemExit, match=r"long/passkey-2.json is the report of another comm"):
            smollm2_report.main(folder)
    (folder.parent / "texts.json").unlink()
    smollm2_report.main(folder)
    (folder / "long.txt").write_text("words " * 20)
    with pytest.raises(SystemExit, match=r"passkey-2.json is the report of another text: move it"):
        smollm2_report.main(folder)
    assert len(run) == 4


def test_tables_have_the_texts_that_were_given(
    folder: Path, run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    smollm2_report.main(folder, quick=True)
    (folder / "short.txt").unlink()
    capsys.readouterr()
    smollm2_report.main(folder, quick=True)
    assert "short" not in capsys.readouterr().out


def test_questions_are_asked_where_a_text_has_some(
    folder: Path, run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = str(folder / "{}.jsonl")
    one = {"questions": ONE["passkey"]._replace(lengths=("1",), questions=questions)}
    monkeypatch.setattr(smollm2_report, "EVALUATIONS", one)
    (folder / "short.jsonl").write_text("")
    smollm2_report.main(folder)
    (command,) = run
    assert f"--questions {folder}/short.jsonl --tokens 1 --text {folder}/short.txt" in command


def test_other_ways_stand_beside_the_rows_of_a_report(tmp_path: Path) -> None:
    write_report(tmp_path / "one.json", report_of([{"a": 1}]) | {"beside": [{"b": 2}]})
    write_report(tmp_path / "two.json", report_of([{"a": 1}]))
    assert rows_of(tmp_path / "one.json") == [{"a": 1}, {"b": 2}]
    assert rows_of(tmp_path / "two.json") == [{"a": 1}]


@pytest.mark.parametrize("name", ["texts.json", "reports/short/facts-10.json"])
def test_what_is_damaged_is_named_before_anything_is_measured(
    folder: Path, run: list[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what is not measured now, but stands in the same tables."""
    both = {"passkey": ONE["passkey"]._replace(lengths=("2",)), "facts": ONE["passkey"]}
    both["facts"] = both["facts"]._replace(lengths=("10",))
    monkeypatch.setattr(smollm2_report, "EVALUATIONS", both)
    damaged = folder.parent / name
    damaged.parent.mkdir(parents=True, exist_ok=True)
    damaged.write_text("{")
    with pytest.raises(InputError, match=rf"{damaged.name} is not .*; (remove|make texts writes)"):
        smollm2_report.main(folder, only="passkey")
    assert run == []


def test_what_fails_stops_nothing_else(
    folder: Path, run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_first(words: list[str], file: Path, **options: Any) -> None:
        if "2" in words:
            raise subprocess.CalledProcessError(1, "fotmem")
        write_report(file, report_of([passkey_row(10, 0.5)]))

    monkeypatch.setattr("recipes.reports.evaluate", fail_first)
    with pytest.raises(SystemExit, match="these failed, and can be run again: passkey 2 of long"):
        smollm2_report.main(folder)
    assert "| long | 0.50 (0.40 to 0.60) |\n" in (folder.parent / "page.md").read_text()


def test_reports_of_another_adapter_are_refused(folder: Path, run: list[str]) -> None:
    smollm2_report.main(folder)
    (folder.parent / "reports/adapter.sha256").write_text("0123\n")
    with pytest.raises(SystemExit, match="are of another adapter: remove that folder"):
        smollm2_report.main(folder)
    assert len(run) == 2


def test_some_evaluations(folder: Path, run: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"passkey": ONE["passkey"]._replace(lengths=("1",)), "facts": ONE["passkey"]}
    monkeypatch.setattr(smollm2_report, "EVALUATIONS", one)
    smollm2_report.main(folder, only="passkey")
    assert len(run) == 2
    for only, unknown in {"passkey,perp": "'perp'", "passkey,": "''"}.items():
        match = f"{unknown} cannot be measured: give names, with commas .*, of passkey, facts$"
        with pytest.raises(SystemExit, match=match):
            smollm2_report.main(folder, only=only)
    with pytest.raises(SystemExit, match=r"'facts' cannot be measured: .*, of passkey$"):
        smollm2_report.main(folder, quick=True, only="facts")


@pytest.mark.parametrize("questions", ["", "asked/{}.jsonl"])
def test_texts_of_which_nothing_can_be_measured_change_no_page(
    folder: Path, run: list[str], questions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (folder.parent / "page.md").read_text()
    length = "1" if questions else "4k"
    one = {"passkey": ONE["passkey"]._replace(lengths=(length,), questions=questions)}
    monkeypatch.setattr(smollm2_report, "EVALUATIONS", one)
    needed = "1 and a file of questions (asked/NAME.jsonl)" if questions else "4,096"
    match = rf"no text in .*test can be .* has 20 tokens, and a text .* needs {re.escape(needed)}$"
    with pytest.raises(SystemExit, match=match):
        smollm2_report.main(folder)
    assert (folder.parent / "page.md").read_text() == before
    assert not (folder.parent / "reports").exists()
    assert run == []


def test_if_all_fails_no_page_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(words: list[str], file: Path, **options: Any) -> None:
        raise subprocess.CalledProcessError(1, "fotmem")

    monkeypatch.setattr("recipes.reports.evaluate", fail)
    monkeypatch.setattr(smollm2_report, "draw", partial(draw, picture=folder / "passkey.png"))
    before = (folder.parent / "page.md").read_text()
    with pytest.raises(SystemExit, match="these failed"):
        smollm2_report.main(folder)
    assert (folder.parent / "page.md").read_text() == before
    assert not (folder / "passkey.png").exists()


def test_a_folder_without_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"no .txt file in .*: run make texts, or put one"):
        smollm2_report.main(tmp_path, quick=True)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_the_pages_have_the_figures_of_the_reports(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are reports; until then the pages have the figures of an earlier recipe."""
    monkeypatch.chdir(ROOT)
    _, figures, _ = page.read_text("utf-8").split(FIGURES)
    known = sorted(notes_of_texts(REPORTS))
    names = [name.removeprefix("test/") for name in known if name.startswith("test/")]
    found = smollm2_report.collected(REPORTS, EVALUATIONS, names)
    listed = smollm2_report.described(found, REPORTS)
    written = tables(found, EVALUATIONS, PAGES[page])
    assert figures == (f"\n{listed}\n{written}\n" if written else figures)
