"""Distraction: attention on the right document among many in memory."""

import functools
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread
from torch import Tensor

import fotmem
from fotmem.errors import InputError, OptionError
from fotmem.measure.bench.figures import Figure
from fotmem.measure.evaluate import distraction as evaluated
from fotmem.measure.evaluate.distraction import DistractionRow, measure_distraction
from fotmem.measure.evaluate.distraction_plot import draw_distraction
from fotmem.measure.evaluate.documents import Document, cut, with_facts
from fotmem.measure.evaluate.facts import make_facts
from fotmem.measure.evaluate.report import read_report, rows_of
from fotmem.measure.reading import LOCAL, OVERLAP
from tests import folders, tiny
from tests.commands import call, refusal
from tests.oracle import KeyValues, Oracle
from tests.tiny import contents, one_thread  # noqa: F401 - a fixture

LAYERS, WINDOW = tiny.LAYERS, 40


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of many take long."""
    monkeypatch.setattr("fotmem.measure.bench.figures.RESAMPLED", 100)


def documents(count: int, *, tokens: int = 30, queries: int = 4) -> list[Document]:
    ids = tiny.ids(count * (OVERLAP + tokens + queries) + 50)[0].tolist()
    return cut(ids, documents=count, tokens=tokens, queries=queries, seed=0)


def measure(
    model: Any, made: Sequence[Document], layers: Sequence[int] = LAYERS, **options: Any
) -> list[DistractionRow]:
    with fotmem.attach(model, layers=layers, window=WINDOW, **options) as memory:
        rows = list(measure_distraction(model, memory, made))
        assert len(memory) == len(memory.store(layers[0])) == 0
    return rows


# Documents


def test_documents_are_disjoint_pieces_in_no_order() -> None:
    ids = list(range(1000))
    make = functools.partial(cut, ids, documents=8, tokens=60, queries=10)
    made = make(seed=0)
    spans = []
    for each in made:
        assert tuple(map(len, each[:3])) == (OVERLAP, 60, 10)
        piece = [*each.before, *each.tokens, *each.queries]
        assert piece == ids[piece[0] : piece[-1] + 1]
        spans.append((piece[0], piece[-1]))
    assert spans != sorted(spans)
    ordered = sorted(spans)
    assert all(one[1] < other[0] for one, other in itertools.pairwise(ordered))
    assert [start // 125 for start, _ in ordered] == list(range(8))
    assert make(seed=0) == made
    assert sorted(make(seed=1)) != sorted(made)


def test_a_text_that_just_suffices() -> None:
    make = functools.partial(cut, documents=4, tokens=60, queries=10, seed=0)
    needed = 4 * (OVERLAP + 70)
    assert len(make(list(range(needed)))) == 4
    with pytest.raises(InputError, match="the text has 343 tokens, 344 are needed: add"):
        make(list(range(needed - 1)))


# Figures


class Watching(Oracle):
    """Notes, of each query head and token, the weights of all documents and of what is local."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.noted: dict[int, list[Tensor]] = {layer: [] for layer in self.mem_layers}

    def _attend(
        self, queries: Tensor, local: KeyValues, layer: int, stores: Sequence[KeyValues]
    ) -> Tensor:
        asking, turned = self._asking(queries, layer, 0), self._rotate(queries, layer, 0)
        beside = self._rotate(local.keys, layer, 0)
        for store in stores[-1:]:
            for head, token in torch.cartesian_prod(*map(torch.arange, turned.shape[:2])).tolist():
                kv_head = head // (self.num_heads // self.num_kv_heads)
                remembered = store.keys[kv_head] @ asking[head, token] / self.temperature
                near = beside[kv_head, : token + 1] @ turned[head, token]
                weights = (torch.cat([remembered, near]) / self.head_dim**0.5).softmax(0)
                self.noted[layer].append(weights[: store.keys.shape[1]])
        return super()._attend(queries, local, layer, stores)

    def remember(self, group: Sequence[Document]) -> None:
        """Hold these documents, each read by itself in windows that overlap."""
        self.memory = {layer: self._nothing() for layer in self.mem_layers}
        for each in group:
            text, start = torch.tensor([*each.before, *each.tokens]), 0
            while start < len(text):
                before = min(OVERLAP, start)
                window = [self._nothing() for _ in range(self.num_layers)]
                self._chunk(text[start - before : start - before + self.window], window, {})
                new = before if start else OVERLAP
                for layer in self.mem_layers:
                    pair = zip(self.memory[layer], self._to_store(window[layer]), strict=True)
                    self.memory[layer] = KeyValues(
                        *(torch.cat([old, more[:, new:]], 1) for old, more in pair)
                    )
                start += self.window - before

    def row(self, made: Sequence[Document], size: int) -> dict[str, Any]:
        """Measure what a row says."""
        right: dict[int, list[Tensor]] = {layer: [] for layer in self.mem_layers}
        every: dict[int, list[Tensor]] = {layer: [] for layer in self.mem_layers}
        for number, each in enumerate(made):
            place = number % size
            self.remember(made[number - place : number - place + size])
            self.new_sequence()
            self.noted = {layer: [] for layer in self.mem_layers}
            self.forward(each.queries)
            for layer, noted in self.noted.items():
                weights = torch.stack(noted).reshape(
                    self.num_heads, len(each.queries), size, len(each.tokens)
                )
                right[layer].append(weights[:, :, place].sum(-1))
                every[layer].append(weights.sum((-1, -2)))
        found = {layer: torch.stack(some) for layer, some in right.items()}  # [documents, H * G, T]
        known = {layer: torch.stack(some) for layer, some in every.items()}
        one, all_of_it = torch.stack([*found.values()]), torch.stack([*known.values()])
        return {
            "right_document": float((one / all_of_it).mean()),
            "weighted": float(one.sum() / all_of_it.sum()),
            "memory": float(all_of_it.mean()),
            "heads": {
                layer: (found[layer] / known[layer]).mean((0, 2)).tolist() for layer in found
            },
        }


@pytest.mark.parametrize(
    "options",
    [{"top_k": None}, {"top_k": 5, "decay": 1.5, "temperature": 0.5, "distance": 7}],
    ids=["dense", "aged"],
)
def test_figures_are_those_of_the_oracle(options: dict[str, Any]) -> None:
    model, made = tiny.llama(), documents(4)
    oracle = Watching(model, LAYERS, window=WINDOW, **options)
    rows = measure(model, made, **options)
    assert [row.documents for row in rows] == [1, 2, 4]
    for row in rows:
        expected = oracle.row(made, row.documents)
        assert row.right_document.value == pytest.approx(expected["right_document"], abs=1e-5)
        assert row.right_document_weighted.value == pytest.approx(expected["weighted"], abs=1e-5)
        assert row.memory_share.value == pytest.approx(expected["memory"], abs=1e-5)
        for layer in LAYERS:
            assert row.heads[layer] == pytest.approx(expected["heads"][layer], abs=1e-5)
        assert row.searched == 4
        assert row.uniform == 1 / row.documents
    assert rows[0].right_document == rows[0].right_document_weighted == Figure(1, 1, 1)
    assert (
        rows[2].right_document.low < rows[2].right_document.value < rows[2].right_document.high < 1
    )


def test_each_document_is_asked_for_among_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    model, made, plain, asked = tiny.llama(), documents(4), evaluated._ask, []
    with fotmem.attach(model, layers=LAYERS, window=WINDOW) as memory:
        read = [evaluated._read(memory, each)[3].keys for each in made]

        def noted(*given: Any) -> Tensor:
            held = contents(memory.store(3))[0].split(30, 1)
            numbers = [
                next(i for i, keys in enumerate(read) if torch.equal(keys, each)) for each in held
            ]
            asked.append((numbers, numbers[given[4]], given[2]))
            return plain(*given)

        monkeypatch.setattr(evaluated, "_ask", noted)
        list(measure_distraction(model, memory, made))
    groups = [[0], [1], [2], [3], [0, 1], [0, 1], [2, 3], [2, 3], *[[0, 1, 2, 3]] * 4]
    assert [group for group, _, _ in asked] == groups
    assert [right for _, right, _ in asked] == [0, 1, 2, 3] * 3
    assert [document for _, _, document in asked] == made * 3


def alike(sign: float) -> Any:
    """Build a model whose first layer attends to the same token again; or to all others."""
    model = tiny.llama("one_head")
    model.config.mem_positionals = False
    attention = model.model.layers[0].self_attn
    attention.k_proj.weight.copy_(3 * torch.eye(32))
    attention.q_proj.weight.copy_(sign * 3 * torch.eye(32))
    return model


def apart(count: int) -> list[Document]:
    """Make documents that have no token in common."""
    made = []
    for number in range(count):
        tokens = list(range(3 + 8 * number, 11 + 8 * number))
        made.append(Document(tokens[:1] * OVERLAP, tokens * 4, tokens))
    return made


def test_distinct_documents() -> None:
    found = measure(alike(1.0), apart(8), [0])
    assert [row.right_document.value for row in found] == pytest.approx([1.0] * 4, abs=1e-3)
    missed = measure(alike(-1.0), apart(8), [0])
    assert missed[0].right_document.value == 1
    assert max(row.right_document.value for row in missed[1:]) < 0.5


def test_documents_that_are_the_same() -> None:
    for row in measure(tiny.llama(), documents(1) * 8):
        assert row.right_document == pytest.approx((row.uniform,) * 3, abs=1e-6)
        assert row.right_document_weighted == pytest.approx((row.uniform,) * 3, abs=1e-6)


def test_impossible_measurements_are_refused() -> None:
    with pytest.raises(OptionError, match="documents must be a power of two, got 3"):
        measure(tiny.llama(), documents(3))
    with pytest.raises(OptionError, match="must be a power of two, got 0"):
        measure(tiny.llama(), [])
    with pytest.raises(OptionError, match="fit into one window, at most 40, got 41"):
        measure(tiny.llama(), documents(2, queries=41))
    assert len(measure(tiny.llama(), documents(2, queries=40))) == 2


# Facts


def test_facts_are_hidden_and_asked_for() -> None:
    tokenizer = folders.tokenizer()
    text = tokenizer(folders.PROSE[:6000], add_special_tokens=False).input_ids
    plain = cut(text, documents=4, tokens=100, queries=30, seed=0)
    made = with_facts(tokenizer, plain, seed=0, window=100)
    facts = make_facts(4, 0)
    assert len({one.fact.key for one in facts}) == 4
    for before, after, one in zip(plain, made, facts, strict=True):
        hidden = tokenizer(f" {one.statement}", add_special_tokens=False).input_ids
        changed = [i for i in range(100) if before.tokens[i] != after.tokens[i]]
        start = next(i for i in range(101) if after.tokens[i : i + len(hidden)] == hidden)
        assert start <= changed[0]
        assert changed[-1] < start + len(hidden)
        assert len(after.tokens) == 100
        assert (after.before, after.queries[:LOCAL]) == (before.before, before.queries[:LOCAL])
        asked = str(tokenizer.decode(after.queries[LOCAL:]))
        assert asked.split() == f"{one.question} {one.fact.answer}".split()
        following = after.queries[1:][after.evaluated]  # what is said from there
        assert str(tokenizer.decode(following)).strip() == one.fact.answer
    assert with_facts(tokenizer, plain, seed=1, window=100) != made


def test_only_queries_that_predict_the_answer_are_evaluated() -> None:
    model, made = tiny.llama(), documents(2, queries=6)
    parts = [
        [each._replace(evaluated=evaluated) for each in made]
        for evaluated in (slice(None), slice(0, 2), slice(2, 6))
    ]
    every, first, rest = (measure(model, some)[1].right_document.value for some in parts)
    assert first != pytest.approx(rest)
    assert every == pytest.approx((2 * first + 4 * rest) / 6)


def test_a_fact_needs_room() -> None:
    tokenizer = folders.tokenizer()
    with pytest.raises(InputError, match=r"a fact takes \d+ tokens, a document has 5: make"):
        with_facts(tokenizer, documents(2, tokens=5), seed=0, window=64)


# The command line


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = folders.write(tmp_path_factory.mktemp("model"))
    (folder / "text.txt").write_text(folders.PROSE[:6000], encoding="utf-8")
    return folder


@pytest.fixture
def given(folder: Path) -> list[object]:
    sizes = ["--documents", 4, "--tokens", 60, "--queries", 12, "--window", 32]
    return ["eval", "distraction", folder, "--text", folder / "text.txt", *sizes]


def test_table_json_and_report(
    given: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "report.json"
    ended = call(capsys, *given, "--json", "--report", file)
    rows = json.loads(ended.out)["rows"]
    content = read_report(file)
    assert content["task"] == "distraction"
    assert (content["options"]["documents"], content["options"]["store"]) == (4, "exact")
    read = rows_of(content, DistractionRow, file)
    assert json.loads(json.dumps([asdict(row) for row in read])) == rows == content["rows"]
    assert [row.documents for row in read] == [1, 2, 4]
    assert list(read[0].heads) == [1, 3]

    table = call(capsys, *given)
    assert table.code == 0, table.err
    mass = read[2].right_document
    assert f"│ 4         │ {mass.value:.3f} ({mass.low:.3f} to {mass.high:.3f}) " in table.out
    assert "│ 0.250     │" in table.out
    mean, best = sum(read[2].heads[3]) / 4, max(read[2].heads[3])
    assert re.search(f"│ 3 +│ {mean:.3f} +│ {best:.3f} +│", table.out)
    for name in ("right document", "weighted", "by chance", "memory"):
        assert f"\n{name}: " in table.out


def test_facts_by_the_command(
    given: list[object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*given, "--tokens", 100, "--json", "--window", 64]
    assert "the window has 64: take a larger window" in refusal(capsys, 1, *given, "--facts")
    monkeypatch.setattr(
        "fotmem.measure.evaluate.documents.LOCAL", 2
    )  # a tiny model has no room for more
    plain, facts = (
        json.loads(call(capsys, *given, *more).out)["rows"][2] for more in ((), ("--facts",))
    )
    assert plain["right_document"] != facts["right_document"]
    assert facts["searched"] == 4


def test_other_seeds_take_other_documents(
    given: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    masses = [
        json.loads(call(capsys, *given, "--json", "--seed", seed).out)["rows"][2]["right_document"]
        for seed in (0, 0, 1)
    ]
    assert masses[0] == masses[1] != masses[2]


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        (["--documents", 6], 1, "documents must be a power of two, got 6"),
        (["--documents", 0], 2, "'--documents': expected an integer of at least 1, got 0"),
        (["--queries", 33], 1, "queries must fit into one window, at most 32, got 33"),
        (["--tokens", "1k,2k"], 2, "expected one size, such as 16k, got '1k,2k'"),
        (["--top-k", "none"], 2, "expected a number of at least 1, or all, got 'none'"),
    ],
)
def test_mistakes_are_refused_before_the_model_is_loaded(
    options: list[object], code: int, reason: str, given: list[object],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(
        "fotmem.cli.evaluate.task.load_quietly", lambda *given: pytest.fail("it was loaded")
    )
    assert reason in refusal(capsys, code, *given, *options)


def test_mistakes_that_need_the_model(
    given: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "are needed: add text" in refusal(capsys, 1, *given, "--documents", 1024)
    assert "9" in refusal(capsys, 1, *given, "--layers", "9")


def test_needed_packages_are_named(
    given: list[object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fotmem.errors.find_spec", lambda name: None)
    assert "'fotmem eval distraction' is not available here: needs scipy" in refusal(
        capsys, 1, *given
    )


# The picture


def test_the_picture(tmp_path: Path) -> None:
    figure = Figure(0.5, 0.4, 0.6)
    row = DistractionRow(1, Figure(1, 1, 1), Figure(1, 1, 1), figure, {1: [1.0]}, 8, 1.0)
    before = [row, replace(row, documents=2, right_document=figure, right_document_weighted=figure)]
    file = tmp_path / "distraction.png"
    draw_distraction({"before tuning": before, "after tuning": before[:1]}, file)
    pixels = (255 * imread(file)[..., :3]).round().astype(int)
    colours = set(map(tuple, pixels.reshape(-1, 3).tolist()))
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colours  # both curves are drawn


def test_a_question_that_does_not_fit_into_a_window_is_refused() -> None:
    with pytest.raises(InputError, match="tokens, the window has 16: take a larger window"):
        with_facts(folders.tokenizer(), documents(2, tokens=60), seed=0, window=16)
