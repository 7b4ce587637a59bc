"""Perplexity: which tokens are scored, what each of them sees, and the share of full attention."""

import functools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import fotmem
from fotmem.errors import InputError
from fotmem.measure.evaluate import bare_model
from fotmem.measure.evaluate.bare_model import BareLosses, BareModel
from fotmem.measure.evaluate.perplexity import (
    PerplexityRow,
    _row,
    measure_perplexity,
    sliding_row,
)
from fotmem.measure.evaluate.report import read_report, rows_of
from fotmem.measure.evaluate.scored_text import ScoredText
from tests import folders, tiny
from tests.commands import call, refusal
from tests.tiny import one_thread  # noqa: F401 - a fixture

TEXT, CONTEXT = folders.PROSE[:6000], 128


@functools.cache
def tokens() -> list[int]:
    return list(folders.tokenizer()(TEXT, add_special_tokens=False).input_ids)


def naive_losses(model: Any, before: list[int], scored: list[int]) -> Tensor:
    """Score token by token, each in a call of its own without a cache."""
    text, losses = before + scored, []
    for place in range(max(1, len(before)), len(text)):
        logits = model(torch.tensor([text[:place]])).logits[0, -1]
        losses.append(cross_entropy(logits, torch.tensor(text[place])))
    return torch.stack(losses).detach()


def losses_of(window: list[int], model: Any) -> Tensor:
    inputs = torch.tensor([window])
    return cross_entropy(model(inputs).logits[0, :-1], inputs[0, 1:], reduction="none")


# With memory and without


def test_perplexity_is_that_of_windows_with_memory() -> None:
    model, ids = folders.model(), tokens()[:400]
    text = ScoredText(ids, [32], [64, 256], scored=70)
    with fotmem.attach(model, window=32, top_k=None) as memory:
        rows = [*measure_perplexity(model, memory, text, [64, 256], store="exact", overlap=0)]
        memory.clear()
        memory.read(ids[330 - 64 : 330], attend=False)
        losses = []
        for window in (ids[330:362], ids[362:394], ids[394:]):
            losses.append(losses_of(window, model))
            memory.read(window, attend=False)
    plain = [losses_of(each, model) for each in (ids[330:362], ids[362:394], ids[394:])]
    assert [(row.tokens, row.memory, row.scored, row.window) for row in rows] == [
        (0, False, 67, 32),
        (64, True, 67, 32),
        (256, True, 67, 32),
    ]
    assert rows[0].perplexity == pytest.approx(math.exp(torch.cat(plain).mean()), rel=1e-4)
    assert rows[1].perplexity == pytest.approx(math.exp(torch.cat(losses).mean()), rel=1e-4)
    change = float(torch.cat(losses).mean() - torch.cat(plain).mean())
    assert rows[1].difference == pytest.approx(change, abs=1e-5)
    low, high = rows[1].difference_interval
    assert low < change < high
    assert rows[0].difference == 0
    assert rows[1].share is None


def test_places_are_the_ends_of_equal_parts() -> None:
    model, ids = folders.model(), tokens()[:600]
    with fotmem.attach(model, window=32) as memory:

        def measure(part: list[int], places: int) -> list[float]:
            text = ScoredText(part, [32], [64], scored=64, places=places)
            steps = measure_perplexity(model, memory, text, [64], store="exact", overlap=0)
            return [math.log(row.perplexity) for row in steps]

        parts = [measure(ids[:end], 1) for end in (200, 400, 600)]
        for together, apart in zip(measure(ids, 3), zip(*parts, strict=True), strict=True):
            assert together == pytest.approx(sum(apart) / 3, abs=1e-5)
        with pytest.raises(InputError, match="600 tokens, 640 are needed"):
            measure(ids, 5)


def test_all_windows_count_the_same_tokens() -> None:
    """Of each window the first token has nothing before it, and is counted with no window."""
    text = ScoredText(tokens()[:300], [20, 30], [40], scored=70, places=2)
    first = {0, 20, 40, 60, 30}
    expected = [place not in first for place in range(70)]
    assert text.counted.tolist() == [expected] * 2
    losses = torch.arange(140.0).view(2, 70)
    losses[:, 30] = math.nan
    kept = [place for place in range(70) if expected[place]]
    assert text.mean(losses) == pytest.approx(sum(kept) / len(kept) + 35)
    sums = [sum(p for p in kept if p // 30 == window) for window in range(3)]
    numbers = [sum(p // 30 == window for p in kept) for window in range(3)]
    moved = [total + 70 * number for total, number in zip(sums, numbers, strict=True)]
    found = text.window_sums(losses, 30).view(3, 2).T.tolist()
    assert found == [pytest.approx(sums), pytest.approx(moved)]


# Without fotmem


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_full_attention_sees_the_memory_and_all_windows_before(
    attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bare_model, "STEP", 7)
    model, ids = tiny.llama(attention=attention), tiny.ids(150)[0].tolist()
    text = ScoredText(ids, [10], [40], scored=24, places=2)
    found = BareModel(model, text).full(40)
    expected = [
        naive_losses(model, ids[end - 64 : end - 24], ids[end - 24 : end]) for end in (75, 150)
    ]
    assert found.seen == 64
    assert found.losses == pytest.approx(torch.stack(expected), abs=1e-5)


def test_a_window_slides_by_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bare_model, "STEP", 5)
    model, ids = tiny.llama(), tiny.ids(120)[0].tolist()
    text = ScoredText(ids, [10], [40], scored=34)
    found = BareModel(model, text).sliding(16)
    ends = [range(86, 94), range(94, 102), range(102, 110), range(110, 118), range(118, 120)]
    expected = [
        naive_losses(model, ids[each.stop - 16 : each.start], ids[each.start : each.stop])
        for each in ends
    ]
    assert found.seen == 16
    assert found.losses[0] == pytest.approx(torch.cat(expected), abs=1e-5)


def test_the_share_is_over_what_full_attention_sees() -> None:
    """The model has 64 positions: 16 tokens in memory leave 48, 32 leave 32."""
    model, ids = tiny.llama(), tiny.ids(200)[0].tolist()
    text = ScoredText(ids, [16], [40], scored=60, places=2)
    bare, end = BareModel(model, text), len(ids) - 60
    found = {size: bare.full(size) for size in (4, 16, 32, 40)}
    assert {size: each.whole for size, each in found.items()} == {4: 60, 16: 48, 32: 32, 40: 0}
    assert {each.seen for each in found.values()} == {64}
    for size, whole in ((16, 48), (32, 32)):
        expected = naive_losses(model, ids[end - size : end], ids[end : end + whole])
        assert found[size].losses[1, :whole] == pytest.approx(expected, abs=1e-5)
        after = naive_losses(model, ids[-64 : end + whole], ids[end + whole :])
        assert found[size].losses[1, whole:] == pytest.approx(after, abs=1e-5)
    assert torch.equal(found[40].losses, bare.sliding(64).losses)
    assert bare.sliding(64).whole == 0
    saved = torch.arange(60.0).expand(2, 60) / 16
    for size, windows in ((4, 4), (16, 3), (32, 2), (40, 0)):
        full = found[size]._replace(losses=torch.zeros(2, 60))
        row = _row(text, 16, 100 - saved, torch.full((2, 60), 100.0), size, "exact", 0, full)
        assert row.share_windows == 2 * windows
        if windows:
            counted = saved[0, : 16 * windows][text.counted[0, : 16 * windows]]
            assert row.share
            assert row.share.value == pytest.approx(float(counted.mean()) / 100)
        else:
            assert row.share is None


def test_nothing_is_scored_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(model: Any, before: list[int], tokens: list[int]) -> Tensor:
        calls.append(len(before))
        return torch.zeros(len(tokens))

    monkeypatch.setattr(bare_model, "context_losses", counted)
    text = ScoredText(tiny.ids(200)[0].tolist(), [16], [32], scored=32)
    bare = BareModel(tiny.llama(), text)
    for _ in range(2):
        bare.full(32), bare.sliding(64), bare.full(100)
    assert calls == [32]


# The share


def test_the_share_of_losses_by_hand() -> None:
    """Without memory 4 nats, with full attention 2: each nat that memory saves is a half."""
    text = ScoredText(tiny.ids(100)[0].tolist(), [4], [8], scored=12)
    plain, full = torch.full((1, 12), 4.0), BareLosses(torch.full((1, 12), 2.0), 20, 12, 0)
    saved = torch.tensor([[0.0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]])
    losses = plain - saved
    losses[0, ::4] = plain[0, ::4] = math.nan
    row = _row(text, 4, losses, plain, 8, "exact", 0, full)
    assert row.share
    assert row.share.value == pytest.approx(0.5)
    assert 0 <= row.share.low < 0.5 < row.share.high <= 1
    assert row.full_perplexity == pytest.approx(math.exp(2))
    assert row.full_tokens == 20
    assert row.perplexity == pytest.approx(math.exp(3))
    assert row.difference == pytest.approx(-1)
    worse = full._replace(losses=full.losses + 2)
    assert _row(text, 4, losses, plain, 8, "exact", 0, worse).share is None


def test_the_share_is_that_of_sums_not_a_mean_of_shares() -> None:
    text = ScoredText(tiny.ids(100)[0].tolist(), [3], [8], scored=6)
    plain = torch.full((1, 6), 10.0)
    full = BareLosses(torch.tensor([[0.0, 2, 2, 0, 9, 9]]), 14, 6, 0)
    losses = torch.tensor([[0.0, 10, 10, 0, 9, 9]])
    row = _row(text, 3, losses, plain, 8, "exact", 0, full)
    assert row.share
    assert row.share == pytest.approx((2 / 18, 0, 1))


def test_a_single_window_has_an_interval_over_its_parts() -> None:
    text = ScoredText(tiny.ids(400)[0].tolist(), [256], [8], scored=256)
    plain = torch.full((1, 256), 10.0)
    saved = torch.arange(256.0)[None] / 256
    full = BareLosses(plain - 2, 264, 256, 0)
    row = _row(text, 256, plain - saved, plain, 8, "exact", 0, full)
    expected = [10 - (32 * i + 15.5) / 256 for i in range(8)]
    assert row.block_losses == pytest.approx(expected, abs=3e-3)
    low, high = row.difference_interval
    assert -0.8 < low < -0.7
    assert -0.3 < high < -0.2
    assert row.share
    assert 0.1 < row.share.low < 0.2
    assert row.share.value == pytest.approx(0.25, abs=2e-3)
    assert 0.3 < row.share.high < 0.4


def test_a_block_without_counted_tokens_has_no_part_in_the_share() -> None:
    """The last window has one token, which nothing predicts."""
    text = ScoredText(tiny.ids(100)[0].tolist(), [32], [16], scored=33)
    plain, saved = torch.full((1, 33), 4.0), torch.arange(33.0)[None] / 33
    full = BareLosses(plain - 2, 49, 33, 0)
    row = _row(text, 32, plain - saved, plain, 16, "exact", 0, full)
    assert row.share_windows == 2
    assert row.share
    assert all(map(math.isfinite, row.share))


def test_an_empty_memory_has_no_share_and_full_attention_one() -> None:
    model, ids = tiny.llama(), tiny.ids(100)[0].tolist()
    text = ScoredText(ids, [8], [0], scored=8)
    full = BareModel(model, text).full(0)
    longer = BareModel(model, ScoredText(ids, [8], [50], scored=8)).full(50)
    full = full._replace(losses=longer.losses - 9)  # better than alone, surely
    with fotmem.attach(model, layers=tiny.LAYERS, window=8) as memory:
        plain, row = measure_perplexity(
            model, memory, text, [0], store="exact", full={0: full}, overlap=0
        )
    assert row.share == (0, 0, 0)
    assert row.perplexity == plain.perplexity
    whole = _row(text, 8, full.losses, longer.losses, 0, "exact", 0, full)
    assert whole.share == (1, 1, 1)


# The command line


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = folders.write(tmp_path_factory.mktemp("model"), max_position_embeddings=CONTEXT)
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    return folder


def test_rows_of_several_windows(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["eval", "perplexity", folder, "--text", folder / "text.txt", "--scored", 64]
    given += ["--tokens", "64,100", "--window", "16,32", "--sliding", 32]
    file = tmp_path / "report.json"
    assert not call(capsys, *given, "--report", file, "--json").code
    report = read_report(file)
    assert report["options"]["window"] == [16, 32]
    rows = rows_of(report, PerplexityRow, file)
    assert [(row.window, row.sliding, row.tokens, row.full_tokens) for row in rows] == [
        (32, True, 0, None),
        *(
            (window, False, *each)
            for window in (16, 32)
            for each in ((0, None), (64, 128), (100, CONTEXT))
        ),
    ]
    assert {row.scored for row in rows} == {60}
    model = folders.model(max_position_embeddings=CONTEXT)
    text = ScoredText(tokens(), [16, 32], [64, 100], scored=64)
    bare = BareModel(model, text)
    expected = sliding_row(text, 32, bare.sliding(32))
    assert rows[0].perplexity == pytest.approx(expected.perplexity, rel=1e-5)
    assert rows[2].full_perplexity == pytest.approx(math.exp(text.mean(bare.full(64).losses)))
    assert all(row.share is None for row in rows if row.tokens != 64)
    table = call(capsys, *given)
    assert "│ 32 sliding │ none " in table.out
    assert f" of {CONTEXT} │" in table.out


def test_reports_of_earlier_versions_are_readable(tmp_path: Path) -> None:
    row: dict[str, Any] = {
        "tokens": 0,
        "store": None,
        "memory": False,
        "perplexity": 9.5,
        "difference": 0.0,
    }
    row |= {"difference_interval": [0.0, 0.0], "scored": 5, "seconds": 1.0}
    file = tmp_path / "report.json"
    file.write_text(json.dumps({"task": "perplexity", "options": {}, "rows": [row]}))
    [read] = rows_of(read_report(file), PerplexityRow, file)
    assert (read.perplexity, read.window, read.share, read.sliding) == (9.5, None, None, False)


@pytest.mark.parametrize(
    ("given", "code", "reason"),
    [
        (["--window", "32,128"], 1, "a window of 128 tokens needs as many scored tokens, got 64"),
        (["--window", "16", "--scored", "31"], 2, "'--scored': expected 32 tokens or more, got 31"),
        (["--window", "1"], 1, "window must be at least 2 tokens, got 1"),
        (["--window", "32,x"], 2, "'--window': expected sizes such as 4096 or 4k,16k, got '32,x'"),
        (["--window", "32", "--distance", "9999"], 1, "distance must be from 0 to "),
        (["--window", "32", "--sliding", "1M"], 1, "a window of 1,048,576 tokens cannot slide: "),
        (["--window", "16,32", "--stores", "exact"], 2, "'--stores': expected one window, and no"),
        (["--window", "32", "--sliding", "9", "--stores", "exact"], 2, "'--stores': expected one"),
    ],
)
def test_wrong_windows_are_refused(
    given: list[str], code: int, reason: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", "perplexity", folder, "--text", folder / "text.txt", "--tokens", 64]
    assert reason in refusal(capsys, code, *words, "--scored", 64, *given)
