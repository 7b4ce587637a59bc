"""From what stores find to the model's quality: `fotmem eval curve`, on drawn reports."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fotmem.errors import InputError
from fotmem.measure.bench.figures import Figure
from fotmem.measure.evaluate.curves import QUALITIES, Curve, read_curves
from fotmem.measure.evaluate.dictionary import DictionaryRow
from fotmem.measure.evaluate.passkey import PasskeyRow
from fotmem.measure.evaluate.perplexity import PerplexityRow
from fotmem.measure.evaluate.report import StoreRow, report, write_report
from fotmem.measure.evaluate.store_quality import FIGURES, StoreQuality
from tests.commands import call, refusal


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of many take long."""
    monkeypatch.setattr("fotmem.measure.bench.figures.RESAMPLED", 100)


def around(value: float, reach: float = 0.01) -> Figure:
    return Figure(value, value - reach, value + reach)


def found(recall: float, error: float = 0.1) -> StoreQuality:
    return StoreQuality(around(recall), around((1 + recall) / 2), around(0.6), around(error))


def row(
    task: str, quality: float, what: StoreQuality | None, store: str | None, **about: Any
) -> StoreRow:
    """A row whose quality is this."""
    about = {"store": store, "store_quality": what, "tokens": 4096, "options": {}, **about}
    ends = (quality - 0.1, quality + 0.1)
    if task == "passkey":
        return PasskeyRow(store is not None, 0.5, quality, ends, 9, 1.0, **about)
    if task == "dictionary":
        return DictionaryRow(quality, ends, 0.5, 9, 1.0, 1.0, 1.0, **about)
    return PerplexityRow(True, 9.0, -quality, (-ends[1], -ends[0]), 9, 1.0, **about)


def write(
    file: Path, qualities: dict[float, float], task: str = "passkey", *, exact: float | None = 1.0,
    errors: Any = None,
) -> Path:  # fmt: skip
    """A report of a store whose settings have this recall, and let the model have this quality."""
    rows = [] if task == "dictionary" else [row(task, 0.0, None, None)]
    if exact is not None:
        rows.append(row(task, exact, found(1.0, 0.0), "exact"))
    for number, (recall, quality) in enumerate(qualities.items()):
        error = 1 - recall if errors is None else errors[number]
        options = {"nprobe": number}
        rows.append(row(task, quality, found(recall, error), "lists", options=options))
    write_report(file, report(task, {}, rows))
    return file


def one(file: Path) -> Curve:
    [curve] = read_curves(file)
    return curve


LINE = {0.5: 0.2, 0.7: 0.6, 0.9: 0.9}


@pytest.mark.parametrize("task", QUALITIES)
def test_a_report_becomes_points(task: str, tmp_path: Path) -> None:
    curve = one(write(tmp_path / "report.json", LINE, task))
    assert (curve.task, curve.tokens) == (task, 4096)
    assert [point.quality.value for point in curve.points] == [1.0, *LINE.values()]
    for point in curve.points:
        assert point.quality.low == pytest.approx(point.quality.value - 0.1)
        assert point.quality.high == pytest.approx(point.quality.value + 0.1)
    assert [point.store_quality.recall for point in curve.points] == list(map(around, [1.0, *LINE]))
    assert str(curve.points[2].setting) == "lists nprobe=1"
    assert curve.exact == curve.points[0]


def test_every_size_has_a_curve(tmp_path: Path) -> None:
    rows = [
        row("passkey", recall, found(recall), f"store-{size}", tokens=size, options={"a": recall})
        for size in (8192, 4096)
        for recall in (0.3, 0.4, 0.5)
    ]
    write_report(tmp_path / "report.json", report("passkey", {}, rows))
    first, second = read_curves(tmp_path / "report.json")
    assert [first.tokens, second.tokens] == [4096, 8192]
    assert {point.setting.store for point in first.points} == {"store-4096"}


def test_the_rank_correlation_is_that_of_its_definition(tmp_path: Path) -> None:
    """1 - 6 * sum(d^2) / (n^3 - n), where there are no ties."""
    qualities = dict(zip((0.2, 0.3, 0.4, 0.5, 0.6), (0.1, 0.4, 0.3, 0.5, 0.9), strict=True))
    errors = (0.3, 0.2, 0.4, 0.1, 0.5)
    curve = one(write(tmp_path / "report.json", qualities, errors=errors))
    recall, error = curve.predicts("recall"), curve.predicts("excess_error")
    assert recall.value == pytest.approx(1 - 6 * 2 / (6**3 - 6))
    goodness, rank = [6, 3, 4, 2, 5, 1], [6, 1, 3, 2, 4, 5]  # of exact and the five, by hand
    apart = sum((a - b) ** 2 for a, b in zip(goodness, rank, strict=True))
    assert error.value == pytest.approx(1 - 6 * apart / (6**3 - 6))
    assert -1 <= error.low < error.value < error.high <= 1
    assert curve.predicts("attention_mass_recall") == recall  # the same order
    assert curve.predicts("error").value == 0  # the same everywhere
    assert curve.best[:2] == ["recall", "attention_mass_recall"]


def test_the_figure_that_predicts_is_named(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    qualities = {recall: recall**2 for recall in np.linspace(0.3, 0.99, 30).tolist()}
    curve = one(write(tmp_path / "report.json", qualities, errors=random.uniform(0.1, 0.9, 30)))
    assert curve.best == ["recall", "attention_mass_recall"]
    assert curve.predicts("recall").low > 0.99 > curve.predicts("excess_error").high
    flat = one(write(tmp_path / "flat.json", dict.fromkeys((0.3, 0.5, 0.9), 1.0)))
    assert flat.best == []
    assert flat.predicts("recall") == (0, 0, 0)


@pytest.mark.parametrize("task", QUALITIES)
def test_the_needed_value_lies_between_settings(task: str, tmp_path: Path) -> None:
    needed = one(write(tmp_path / "report.json", LINE, task)).needed("recall")
    assert needed is not None
    assert not needed.is_bound
    assert needed.value.value == pytest.approx(0.95)  # between (0.9, 0.9) and (1, 1)
    assert needed.value.low <= 0.95 <= needed.value.high <= 1
    error = one(write(tmp_path / "report.json", LINE, task)).needed("excess_error")
    assert error is not None
    assert error.value.value == pytest.approx(0.05)
    assert 0 <= error.value.low <= 0.05 <= error.value.high


def test_a_fall_is_noise(tmp_path: Path) -> None:
    """A dip among points that are good enough changes nothing; they are 0.96 on average."""
    steps = {0.5: 0.2, 0.7: 0.98, 0.8: 0.94, 0.9: 0.98}
    needed = one(write(tmp_path / "report.json", steps)).needed("recall")
    assert needed is not None
    assert needed.value.value == pytest.approx(0.5 + 0.2 * (0.95 - 0.2) / (0.96 - 0.2))


def test_needed_is_a_bound_or_none_where_it_cannot_be_interpolated(tmp_path: Path) -> None:
    good = one(write(tmp_path / "good.json", {0.8: 0.99, 0.9: 0.96})).needed("recall")
    assert good is not None
    assert good.is_bound
    assert good.value.value == 0.8
    poor = one(write(tmp_path / "poor.json", {0.8: 0.2, 0.9: 0.3, 1.0: 0.4})).needed("recall")
    assert poor is not None
    assert poor.value.value == 1.0
    assert one(write(tmp_path / "none.json", LINE, exact=None)).needed("recall") is None
    assert one(write(tmp_path / "lost.json", LINE, exact=0.0)).needed("recall") is None


def test_reports_without_curves_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "report.json"
    for task, rows, reason in (
        ("facts", [], "is a report of fotmem eval facts, expected one of passkey, perplexity,"),
        ("passkey", [row("passkey", 0.1, None, "exact")], "compares no settings of stores"),
        ("passkey", [row("passkey", 1, found(0.5), "a")], "has 1 settings at 4,096 tokens, a"),
    ):
        write_report(file, report(task, {}, rows))
        assert reason in refusal(capsys, 1, "eval", "curve", file)
    content = report("passkey", {}, []) | {"rows": [asdict(row("dictionary", 1, None, "a"))]}
    write_report(file, content)
    with pytest.raises(InputError, match=r"not a report of fotmem eval \(memory: Field required\)"):
        list(read_curves(file))
    assert "cannot be read" in refusal(capsys, 1, "eval", "curve", tmp_path / "none.json")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [write(tmp_path / f"{task}.json", LINE, task) for task in QUALITIES]
    picture = tmp_path / "curves.png"
    ended = call(capsys, "eval", "curve", *files, "--png", picture)
    assert ended.code == 0, ended.err
    for task in QUALITIES:
        assert f"{task}, 4,096 tokens" in ended.out
    assert re.search(r"│ recall +│ 1\.000 \(", ended.out)
    assert "│ 0.950 (" in ended.out
    assert "predicts best: " in ended.out
    for name in ("predicts", "needed"):
        assert f"\n{name}: " in ended.out
    assert str(picture) in ended.out.replace("\n", "")
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("missing", ["scipy", "matplotlib"])
def test_needed_packages_are_named(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(
        "fotmem.errors.find_spec", lambda name: None if name == missing else object()
    )
    given = ["eval", "curve", tmp_path / "report.json", "--png", tmp_path / "curves.png"]
    assert refusal(capsys, 1, *given) == (
        f"'fotmem eval curve' is not available here: needs {missing}, not installed: "
        "pip install 'fotmem[bench]'"
    )


def test_every_figure_is_explained() -> None:
    assert list(FIGURES) == list(StoreQuality.__dataclass_fields__)
