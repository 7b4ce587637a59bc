"""Settings of stores side by side in the evaluations: what is measured, how often, what fails."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import fotmem
from fotmem import Memory
from fotmem.measure.evaluate import compare_settings as compared
from fotmem.measure.evaluate import dictionary, perplexity
from fotmem.measure.evaluate import passkey as evaluated
from fotmem.measure.evaluate.dictionary import DictionaryRow
from fotmem.measure.evaluate.passkey import PasskeyAnswer, PasskeyRow
from fotmem.measure.evaluate.passkey_trials import Trial, make_trials
from fotmem.measure.evaluate.perplexity import PerplexityRow
from fotmem.measure.evaluate.report import TaskReport
from fotmem.measure.evaluate.store_quality import POSITIONS, CallQuality, call_quality
from fotmem.measure.grid import Grid, settings
from fotmem.plugin import registry
from fotmem.stores import MemoryStore
from fotmem.training.dictionary_model import new_model, new_tokenizer
from tests import folders
from tests.commands import call, refusal
from tests.plugins import hook, install
from tests.tiny import contents, one_thread  # noqa: F401 - a fixture

TEXT = folders.PROSE[:6000]
TOP_K = 4
GRID: Grid = {"sparse": {"salt": [1, 2], "every": [1, 3]}}
"""Two stores to build, each tuned twice."""

SPARSE = """
from fotmem.stores import Hits
from fotmem.stores.brute_force import exact_search
from fotmem_exact.store import ExactStore

class SparseOptions(StoreOptions):
    every: int = 2
    salt: int = 0

class SparseStore(ExactStore):
    '''Finds only every so many keys.'''

    search_options = frozenset({'every'})
    built = []

    def __init__(self, options, **layer):
        super().__init__(**layer)
        self.options = options

    def add_rows(self, keys, values):
        if not len(self):
            self.built.append(self.options.salt)
        if self.options.salt == 13:
            raise OSError('the disk is full')
        if self.options.salt == 99:
            raise KeyboardInterrupt
        super().add_rows(keys, values)

    def search_rows_biased(self, queries, top_k, bias):
        every = self.options.every
        if every == 13:
            raise RuntimeError('no luck')
        keys = self.stored_keys.since(0)[1][:, ::every]
        if bias is None:
            hits = exact_search(queries, keys, top_k)
        else:
            hits = exact_search(queries, keys, top_k, bias=lambda ids: bias(ids * every))
        return Hits(hits.ids * every, hits.scores)

    def tune_options(self, options):
        self.options = self.options.changed(options)

def sparse(options, **layer):
    return SparseStore(options, **layer)

def none(**arguments):
    raise AssertionError

""" + hook(
    "[spec('sparse', factory=sparse, options=SparseOptions),"
    " spec('absent', factory=none, requires=('not_there',), install='pip install it')]"
)


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Install `sparse`; returns the salts of its stores whenever one gets its first keys."""
    install(tmp_path, "sparse_stores", SPARSE)
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.registry.cache_clear()
    spec = registry.available_stores()["sparse"]
    yield spec.load().__globals__["SparseStore"].built
    monkeypatch.undo()
    registry.registry.cache_clear()


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of many take long."""
    monkeypatch.setattr("fotmem.measure.bench.figures.RESAMPLED", 50)


def passkeys(
    every: Any, file: Path | None = None, *, readings: int | None = 1, attend: bool = False,
    length: int = 200, model: Any = None, **options: Any,
) -> tuple[TaskReport[PasskeyRow], Memory]:  # fmt: skip
    """Ask settings for four pass keys; the memory is as it was left."""
    model, tokenizer = model or folders.model(), folders.tokenizer()
    trials = make_trials(
        tokenizer, TEXT, tokens=length, trials=4, seed=0, window=64, readings=readings
    )
    measured = TaskReport("passkey", {"length": length}, PasskeyRow, file)
    with fotmem.attach(model, window=64, top_k=TOP_K, **options) as memory:
        missing = measured.missing(length, every)
        steps = evaluated.compare(
            model, tokenizer, trials, memory, missing, measured, attend=attend
        )
        assert sum(steps) == 4 * len(missing) or measured.failures
    return measured, memory


# The figures


def naive(memory: Memory, layer: int, queries: NDArray[np.float64]) -> NDArray[np.float64]:
    """The figures of `CallQuality` by their definitions, in float64; queries ``[H, Q, D]``."""
    store = memory.store(layer)
    keys, values = (each.double().numpy() for each in contents(store))
    scores = queries @ keys.transpose(0, 2, 1) / np.sqrt(store.head_dim)
    ages = np.clip((len(memory) - np.arange(len(memory))) / 64, 1, 64)
    scores = scores / memory.temperature - memory.decay * np.log(ages)
    weights = np.exp(scores)
    heads = np.arange(len(keys))[:, None, None]
    rows = np.arange(queries.shape[1])[:, None]
    best = np.argsort(-scores, axis=-1)[..., :TOP_K]
    every = getattr(getattr(store, "options", None), "every", 1)
    hidden = np.where(np.arange(len(memory)) % every, -np.inf, scores)
    found = np.argsort(-hidden, axis=-1)[..., :TOP_K]

    def out(ids: NDArray[np.int64]) -> NDArray[np.float64]:
        some = weights[heads, rows, ids]
        mixed = (some[..., None] * values[heads, ids]).sum(-2)
        return np.asarray(mixed / some.sum(-1, keepdims=True))

    def error(true: NDArray[np.float64]) -> float:
        apart = np.linalg.norm(out(found) - true, axis=-1)
        return float((apart / np.linalg.norm(true, axis=-1)).mean())

    whole = weights.sum(-1, keepdims=True)
    of_best = scores[heads, rows, best]
    bar = of_best[..., -1:] - 1e-5 * abs(of_best).max(-1, keepdims=True)  # as good as the k-th best
    recall = scores[heads, rows, found] >= bar
    shares = [(weights[heads, rows, ids] / whole).sum(-1).mean() for ids in (found, best)]
    return np.array([np.mean(recall), *shares, error(weights / whole @ values), error(out(best))])


@pytest.mark.parametrize(
    ("decay", "temperature", "dtype"),
    [(0.0, 1.0, torch.float32), (0.85, 0.5, torch.float32), (0.85, 0.5, torch.bfloat16)],
)
def test_figures_are_those_of_the_queries_of_the_model(
    decay: float,
    temperature: float,
    dtype: torch.dtype,
    built: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are those of the store, and not of how the model rounds."""
    asked: dict[MemoryStore, torch.Tensor] = {}
    attend = MemoryStore.attend

    def recorded(store: MemoryStore, queries: torch.Tensor, **options: Any) -> Any:
        asked[store] = queries
        return attend(store, queries, **options)

    calls: list[CallQuality] = []

    def judged(memory: Memory) -> CallQuality:
        queries = {layer: asked[memory.store(layer)] for layer in memory.layers}
        found = call_quality(memory)
        expected = [naive(memory, layer, each.double().numpy()) for layer, each in queries.items()]
        assert found == pytest.approx(np.mean(expected, 0), abs=1e-4)
        calls.append(found)
        return found

    monkeypatch.setattr(MemoryStore, "attend", recorded)
    monkeypatch.setattr(compared, "call_quality", judged)
    monkeypatch.setattr("fotmem.measure.evaluate.store_quality.POSITIONS", 1000)
    monkeypatch.setattr("fotmem.measure.evaluate.store_quality.STEP", 70)
    grid: Grid = {"sparse": {"every": [1, 3]}}
    options: dict[str, Any] = {"decay": decay, "temperature": temperature}
    options["model"] = folders.model(dtype=dtype)
    measured, _ = passkeys(settings(["exact", "sparse"], grid), **options)
    assert not measured.failures
    exact, whole, third = measured.rows
    assert len(calls) == 12
    for row in (exact, whole):
        assert row.store_quality is not None
        assert row.store_quality.recall == row.store_quality.attention_mass_recall == (1, 1, 1)
        assert row.store_quality.excess_error.value < 1e-5
        assert row.store_quality.error.value > 0.01
    assert third.store_quality is not None
    assert 0.25 < third.store_quality.recall.value < 0.45
    assert (
        third.store_quality.recall.low
        < third.store_quality.recall.value
        < third.store_quality.recall.high
    )
    assert third.store_quality.attention_mass_recall.value < 0.9
    assert third.store_quality.excess_error.value > 0.1
    found, most = (sum(call[i] for call in calls[5::2]) for i in (1, 2))
    assert third.store_quality.attention_mass_recall.value == pytest.approx(found / most)
    assert third.store_quality.error.value == pytest.approx(
        np.mean([call.error for call in calls[5::2]])
    )


def test_some_positions_of_a_long_call_are_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spread evenly, the last among them."""
    seen = []
    search = MemoryStore.search

    def recorded(store: MemoryStore, queries: torch.Tensor, *given: Any, **options: Any) -> Any:
        seen.append(queries)
        return search(store, queries, *given, **options)

    model = folders.model(max_position_embeddings=256)
    with fotmem.attach(model, window=200, top_k=TOP_K) as memory:
        memory.read(range(5, 105))
        model(torch.arange(5, 155)[None])
        monkeypatch.setattr(MemoryStore, "search", recorded)
        call_quality(memory)
        assert memory.attached_model.last_trace is not None
        [asked, _] = memory.attached_model.last_trace.layers[memory.layers[0]]
    assert [each.shape for each in seen] == [(2, 2 * POSITIONS, 8)] * 2
    assert torch.equal(seen[0][0, POSITIONS - 1], asked[0, 0, -1])
    assert torch.equal(seen[0][1, POSITIONS], asked[0, 3, 0])


def test_an_index_finds_more_with_a_larger_nprobe(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr("fotmem.stores.indexed_store.EXACT_BELOW", 64)
    monkeypatch.setattr("fotmem.stores.indexed_store.RECENT", 0)
    grid: Grid = {"faiss-ivf": {"nlist": [24], "nprobe": [1, 24]}}
    measured, _ = passkeys(settings(["faiss-ivf"], grid), length=600)
    one, all_of_them = (row.store_quality for row in measured.rows)
    assert one is not None
    assert all_of_them is not None
    assert one.recall.high < all_of_them.recall.value == 1
    assert one.attention_mass_recall.value < 1
    assert all_of_them.attention_mass_recall.value == pytest.approx(1)
    assert one.excess_error.value > all_of_them.excess_error.value


# The model's quality is that with each store alone


@pytest.mark.parametrize(
    ("attend", "readings"), [(False, None), (False, 2), (True, None), (True, 1)]
)
def test_pass_keys_with_settings_are_those_with_each_of_them(
    attend: bool, readings: int | None, built: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the model says at the end, instead of whether that is right, which it never is."""

    def said(model: Any, tokenizer: Any, trial: Trial) -> PasskeyAnswer:
        return PasskeyAnswer(
            float(model(torch.tensor([trial.local])).logits[0, -1].max()), True, []
        )

    monkeypatch.setattr(evaluated, "_ask", said)
    every = settings(["exact", "sparse"], {"sparse": {"every": [1, 5]}})
    measured, _ = passkeys(every, readings=readings, attend=attend)
    model, tokenizer = folders.model(), folders.tokenizer()
    trials = make_trials(
        tokenizer, TEXT, tokens=200, trials=4, seed=0, window=64, readings=readings
    )
    for row, setting in zip(measured.rows, every, strict=True):
        options = {"store": setting.store, **setting.options}
        with fotmem.attach(model, window=64, top_k=TOP_K, **options) as memory:
            *_, alone = evaluated.measure_passkey(
                model, tokenizer, trials, memory, setting.store, attend=attend
            )
        assert row.digit_accuracy == pytest.approx(alone.digit_accuracy, abs=1e-5)
        assert (row.trials, row.tokens, row.options) == (4, 200, setting.options)
    exact, _, fifth = measured.rows
    assert exact.digit_accuracy != pytest.approx(fifth.digit_accuracy, abs=1e-3)


@pytest.mark.parametrize("attend", [False, True])
def test_perplexity_with_settings_is_that_with_each_of_them(attend: bool, built: list[int]) -> None:
    model = folders.model()
    ids = folders.tokenizer()(TEXT[:3000], add_special_tokens=False).input_ids
    chosen: dict[str, Any] = {"scored": 130, "places": 2, "overlap": 8, "attend": attend}
    every = settings(["exact", "sparse"], {"sparse": {"every": [1, 5]}})
    measured = TaskReport("perplexity", {}, PerplexityRow, None)
    with fotmem.attach(model, window=64, top_k=TOP_K) as memory:
        steps = perplexity.compare(model, memory, ids, [100, 200], every, measured, **chosen)
        assert sum(steps) == 2 * 2 * 3
    none, *rows = measured.rows
    assert (none.tokens, none.store, none.store_quality) == (0, None, None)
    assert [(row.tokens, row.options) for row in rows] == [
        (size, setting.options) for size in (100, 200) for setting in every
    ]
    for number, setting in enumerate(every):
        options = {"store": setting.store, **setting.options}
        with fotmem.attach(model, window=64, top_k=TOP_K, **options) as memory:
            alone = perplexity.measure_perplexity(
                model, memory, ids, [100, 200], store=setting.store, **chosen
            )
            plain, *expected = alone
        assert replace(none, seconds=0) == replace(plain, seconds=0)
        for row, one in zip(rows[number :: len(every)], expected, strict=True):
            assert row.perplexity == pytest.approx(one.perplexity, rel=1e-5)
            assert row.difference_interval == pytest.approx(one.difference_interval, abs=1e-5)
            assert (row.scored, row.memory) == (one.scored, True)
    assert rows[2].perplexity != pytest.approx(rows[0].perplexity, rel=1e-3)
    assert rows[0].store_quality
    assert rows[2].store_quality
    assert rows[2].store_quality.recall.high < rows[0].store_quality.recall.low == 1


def test_a_dictionary_is_read_once_and_built_once(
    built: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    plain = Memory.read

    def counted(memory: Memory, ids: torch.Tensor, **options: Any) -> None:
        read.append(len(ids))
        plain(memory, ids, **options)

    monkeypatch.setattr(Memory, "read", counted)
    model, every = new_model(0), settings(["sparse"], GRID)
    measured = TaskReport("dictionary", {}, DictionaryRow, None)
    with fotmem.attach(model, top_k=TOP_K) as memory:
        steps = dictionary.compare(model, memory, [999, 1500], every, measured, queries=60, seed=1)
        assert sum(steps) == 2 * 4
        assert type(memory.store(2)).__name__ == "ExactStore"
        rows = [replace(row, store_quality=None, options={}) for row in measured.rows]
        alone = dictionary.measure_dictionary(
            model, memory, [990], queries=60, store="sparse", seed=1
        )
        same: dict[str, Any] = {"seconds_per_query": 0, "tokens_per_second": 0, "ram": None}
        assert replace(next(alone), **same) == replace(rows[0], **same)
    assert read == [990, 1500, 990]
    assert built == [1, 2] * 2
    recalls = [row.store_quality.recall.value for row in measured.rows if row.store_quality]
    assert recalls[::2] == [1] * 4
    assert max(recalls[1::2]) < 0.5


# What is done for it


def test_a_text_is_read_once_and_stores_are_tuned(
    built: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    plain = Memory.read

    def counted(memory: Memory, ids: list[int], **options: Any) -> None:
        read.append(len(ids))
        plain(memory, ids, **options)

    monkeypatch.setattr(Memory, "read", counted)
    measured, _ = passkeys(settings(["exact", "sparse"], GRID), readings=2)
    assert len([length for length in read if length > 100]) == 2
    # Of each reading two trials, in which every salt is built once for each of two layers.
    assert built == [1, 1, 1, 1, 2, 2, 2, 2] * 2
    recall = {
        str(row.options): row.store_quality.recall.value
        for row in measured.rows
        if row.store_quality
    }
    assert len(recall) == 5
    for salt in (1, 2):
        assert recall[f"{{'salt': {salt}, 'every': 1}}"] == 1
        assert recall[f"{{'salt': {salt}, 'every': 3}}"] < 0.5


@pytest.mark.parametrize("attend", [False, True])
def test_the_memory_is_left_as_it_was(attend: bool, built: list[int]) -> None:
    _, memory = passkeys(settings(["sparse"], {"sparse": {"every": [3]}}), attend=attend)
    assert bool(len(memory)) != attend
    for layer in memory.layers:
        assert type(memory.store(layer)).__name__ == "ExactStore"
        assert type(memory.attached_model.new_store(layer)).__name__ == "ExactStore"
        assert len(memory.store(layer)) == len(memory)


def test_a_failing_setting_is_reported_and_others_continue(
    built: list[int], tmp_path: Path
) -> None:
    grid: Grid = {"sparse": {"salt": [1, 13], "every": [1, 13]}}
    file = tmp_path / "report.json"
    measured, memory = passkeys(settings(["absent", "sparse", "exact"], grid), file)
    reasons = [(each.store, each.options, each.reason) for each in measured.failures]
    assert reasons == [
        (
            "absent",
            {},
            "'absent' is not available here: needs not_there, not installed: pip install it",
        ),
        ("sparse", {"salt": 1, "every": 13}, "RuntimeError: no luck"),
        ("sparse", {"salt": 13, "every": 1}, "OSError: the disk is full"),
        ("sparse", {"salt": 13, "every": 13}, "OSError: the disk is full"),
    ]
    assert [row.store for row in measured.rows] == ["sparse", "exact"]
    report = json.loads(file.read_text())
    assert len(report["rows"]) == 2
    assert [each["tokens"] for each in report["failures"]] == [200] * 4
    again, _ = passkeys(settings(["absent", "sparse", "exact"], grid), file)
    assert again.failures == measured.failures  # tried again
    assert type(memory.store(1)).__name__ == "ExactStore"


def test_settings_with_a_row_are_not_measured_again(built: list[int], tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    with pytest.raises(KeyboardInterrupt):
        passkeys(settings(["exact", "sparse"], {"sparse": {"salt": [99]}}), file)
    first = json.loads(file.read_text())["rows"]
    assert [row["store"] for row in first] == ["exact"]
    every = settings(["exact", "sparse"], {"sparse": {"salt": [1, 2]}})
    measured, _ = passkeys(every, file)
    rows = json.loads(file.read_text())["rows"]
    assert rows[0] == first[0]
    assert [row["options"] for row in rows] == [{}, {"salt": 1}, {"salt": 2}]
    again, _ = passkeys(every, file)
    assert again.rows == measured.rows


def test_another_report_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    first = TaskReport("passkey", {"tokens": "4k", "seed": 0, "stores": "exact"}, PasskeyRow, file)
    first.add(PasskeyRow(False, 0.0, 0.0, (0.0, 1.0), 1, 1.0, tokens=4096, store=None))
    for task, options, reason in (
        ("passkey", {"tokens": "8k", "seed": 0}, "with tokens '4k', not '8k': name a new file"),
        ("passkey", {"tokens": "4k", "seed": 1}, "with seed 0, not 1: name a new file"),
        ("facts", {"tokens": "4k"}, "with task 'passkey', not 'facts'; seed 0, not None: name"),
    ):
        with pytest.raises(fotmem.errors.InputError, match=reason):
            TaskReport(task, options, PasskeyRow, file)
    for content, reason in (
        ("[", "is not a report of fotmem eval: Expecting value"),
        ("[]", "is not a report of fotmem eval: it has no task, options and rows"),
    ):
        file.write_text(content)
        with pytest.raises(fotmem.errors.InputError, match=reason):
            TaskReport("passkey", {}, PasskeyRow, file)


# The command line


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = folders.write(tmp_path_factory.mktemp("model"))
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    return folder


def save_lookup(folder: Path) -> Path:
    """Save an untrained model for dictionary lookup."""
    new_model(0).save_pretrained(folder)
    new_tokenizer().save_pretrained(folder)
    return folder


TASKS: dict[str, list[Any]] = {
    "passkey": ["--tokens", "100,200", "--trials", 2, "--readings", 1],
    "perplexity": ["--tokens", "100,200", "--scored", 64],
    "dictionary": ["--tokens", "100,200", "--queries", 9],
}


QUALITIES = {
    "passkey": "exact match",
    "perplexity": "difference (nats)",
    "dictionary": "exact match",
}


@pytest.mark.parametrize("task", TASKS)
def test_tables_json_and_reports(
    task: str, folder: Path, built: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid, file = tmp_path / "grid.toml", tmp_path / "deep" / "report.json"
    grid.write_text("[sparse]\nevery = [1, 3, 13]\n")
    given = ["eval", task, folder, *TASKS[task]]
    if task == "dictionary":
        given[2] = save_lookup(tmp_path / "lookup")
    else:
        given += ["--text", folder / "text.txt", "--window", 64]
    given += ["--stores", "exact,sparse", "--grid", grid, "--report", file]
    table = call(capsys, *given)
    assert table.code == 0, table.err
    assert re.search(r"│ sparse every=3 +│.* to .*│ 0\.[34]\d\d +│", table.out)
    assert re.search(r"│ sparse every=13 +│ .* │ RuntimeError: no luck +│", table.out)
    for name in (QUALITIES[task], "recall", "attention-mass recall", "error", "excess error"):
        assert f"\n{name}: " in table.out
    report = json.loads(file.read_text())
    printed = json.loads(call(capsys, *given, "--json").out)
    assert printed["rows"] == report["rows"]
    assert (report["options"]["store"], report["options"]["stores"]) == (None, "exact,sparse")
    third = [row for row in report["rows"] if row["options"] == {"every": 3}]
    assert len({row["tokens"] for row in third}) == 2
    for row in third:
        low, value, high = (row["store_quality"]["recall"][i] for i in (1, 0, 2))
        assert low <= value <= high < 0.6
    assert all((row["store_quality"] is None) == (row["store"] is None) for row in report["rows"])


@pytest.mark.parametrize(
    ("given", "code", "reason"),
    [
        (["--stores", "exact", "--store", "exact"], 2, "it replaces --store, --option and"),
        (["--stores", "zarr", "--option", "nprobe=3"], 2, "it replaces --store, --option and"),
        (["--grid", "grid.toml"], 2, "'--grid': expected --stores beside it, got none"),
        (["--stores", "exact", "--top-k", "all"], 2, "expected a number beside --stores"),
        (["--stores", "exat"], 1, "no store is named 'exat'; did you mean 'exact'?"),
        (["--stores", "exact", "--grid", "none.toml"], 1, "none.toml cannot be read: No such"),
    ],
)
def test_wrong_usage_is_described_in_one_line(
    given: list[str], code: int, reason: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for task in TASKS:
        text = [] if task == "dictionary" else ["--text", folder / "text.txt"]
        assert reason in refusal(capsys, code, "eval", task, folder, *text, *given)


def test_needed_packages_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fotmem.errors.find_spec", lambda name: None)
    given = ["eval", "passkey", folder, "--text", folder / "text.txt", "--stores", "exact"]
    assert refusal(capsys, 1, *given) == (
        "'fotmem eval --stores' is not available here: needs scipy, not installed: "
        "pip install 'fotmem[bench]'"
    )
