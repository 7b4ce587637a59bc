"""Dictionary lookup: its records, its training, and how it is measured."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen3ForCausalLM
from transformers.modeling_outputs import CausalLMOutput

import fotmem
from fotmem.errors import InputError
from fotmem.measure.evaluate.dictionary import measure_dictionary
from fotmem.measure.evaluate.intervals import wilson
from fotmem.tasks.dictionary import (
    FEW,
    KEY,
    QUERY,
    VALUE,
    DictionaryPairs,
    TrainingStage,
    make_records,
)
from fotmem.training.dictionary import RECIPE, TEMPERATURE, train_dictionary
from fotmem.training.dictionary_model import GAIN, MEMORY_LAYER, new_model, new_tokenizer
from tests import tiny
from tests.commands import call, process, refusal
from tests.tiny import one_thread  # noqa: F401 - a fixture


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_records_differ_in_their_keys() -> None:
    records = make_records(50_000, draw())
    assert records.shape == (50_000, 10)
    assert bool((records[:, 0] == KEY).all() and (records[:, 5] == VALUE).all())
    assert len(records[:, 1:5].unique(dim=0)) == len(records)
    symbols = records[:, [1, 2, 3, 4, 6, 7, 8, 9]]
    assert (int(symbols.min()), int(symbols.max())) == (0, 60)
    assert torch.equal(records, make_records(50_000, draw()))
    assert not torch.equal(records, make_records(50_000, draw(1)))
    with pytest.raises(InputError, match="there are at most 6,922,920 records"):
        make_records(10**7, draw())


@pytest.mark.parametrize("window", [32, 64, 128, 256])
def test_queried_records_are_whole_in_the_previous_window(window: int) -> None:
    pairs = DictionaryPairs(20, 4, (TrainingStage(window),))
    asked, begins = window // 10 - 1, set()
    for index in range(len(pairs)):
        pair = pairs[index]
        for tensor in pair.values():
            assert tensor.shape == (256 // window, 2, window)
        for (previous, current), (none, answers) in zip(
            pair["windows"], pair["answers"], strict=True
        ):
            assert not none.any()
            told = " ".join(map(str, previous.tolist()))
            begins.add(told.split().index(str(KEY)))
            queries = current[-10 * asked :].view(asked, 10)
            assert bool((queries[:, 0] == QUERY).all())
            assert len(queries.unique(dim=0)) == asked  # none is answered by another
            for query in queries.tolist():
                assert f" {' '.join(map(str, query[1:]))}" in f" {told}"
            assert torch.equal(current[answers], queries[:, 6:].flatten())
    assert len(begins) > 5  # windows begin anywhere


def test_examples_depend_on_index_and_seed() -> None:
    parts = (TrainingStage(window=32), TrainingStage())
    pairs = DictionaryPairs(8, 4, parts)
    shapes = [tuple(pairs[index]["answers"].shape) for index in range(len(pairs))]
    assert shapes == [(8, 2, 32)] * 4 + [(1, 2, 256)] * 4
    same, other = DictionaryPairs(8, 4, parts), DictionaryPairs(8, 5, parts)
    assert torch.equal(pairs[3]["windows"], same[3]["windows"])
    assert not torch.equal(pairs[3]["windows"], other[3]["windows"])
    assert not torch.equal(pairs[3]["windows"], pairs[2]["windows"])
    with pytest.raises(IndexError):
        pairs[8]


def neighbours(keys: Tensor) -> float:
    """How many other keys differ from a key in one symbol only, on average."""
    same = (keys[:, None] == keys[None]).sum(2)
    return float((same == 3).sum()) / len(keys)


def test_records_may_be_alike() -> None:
    records = [make_records(400, draw(), alike) for alike in (0.0, 0.5)]
    far, near = (each[:, 1:5] for each in records)
    assert len(near.unique(dim=0)) == 400
    assert len(near.unique()) == 61  # half of them is as ever
    assert neighbours(near) > 1
    assert neighbours(far) < 0.1
    told = records[1].tolist()
    often = Counter(symbol for record in told for symbol in record[1:5]).most_common(FEW)
    few = {symbol for symbol, _ in often}
    of_few = [record for record in told if few.issuperset(record[1:5])]
    assert 170 < len(of_few) < 230
    assert all(few.issuperset(record[6:]) for record in of_few)


def test_no_two_records_of_a_batch_have_the_same_key() -> None:
    pairs = DictionaryPairs(9, 4, (TrainingStage(window=32), TrainingStage(alike=0.5)), batch=3)
    assert [len(pairs[index]["answers"]) for index in range(9)] == [8] * 6 + [1] * 3
    keys = []
    for index in (6, 7, 8):
        previous = pairs[index]["windows"][0, 0]
        begin = previous.tolist().index(KEY)
        keys.append(previous[begin : begin + 240].view(24, 10)[:, 1:5])
    assert len(torch.cat(keys).unique(dim=0)) == 72
    assert neighbours(torch.cat(keys)) > 0.1


class Oracle:
    """Looks records up in the tokens of a memory, and may get one symbol of each value wrong."""

    device = torch.device("cpu")

    def __init__(self, memory: fotmem.Memory, *, wrong: bool) -> None:
        self._memory, self._wrong = memory, wrong

    def __call__(self, ids: Tensor) -> CausalLMOutput:
        told = self._memory.tokens.view(-1, 10)
        values = {tuple(record[1:5]): record[6:] for record in told.tolist()}
        guesses = ids[0].view(-1, 10).clone()
        for query in guesses:
            query[6:] = torch.tensor(values[tuple(query[1:5].tolist())])
            query[8] = (query[8] + int(self._wrong)) % 61
        logits = torch.zeros(1, ids.shape[1], 64)
        logits[0, torch.arange(ids.shape[1] - 1), guesses.flatten()[1:]] = 1.0
        return CausalLMOutput(logits=logits)


@pytest.mark.parametrize("wrong", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_answers_are_counted(wrong: bool) -> None:
    with fotmem.attach(new_model(0)) as memory:
        oracle = Oracle(memory, wrong=wrong)
        first, second = measure_dictionary(
            oracle, memory, [1000, 3000], queries=60, store="exact", seed=1
        )
    assert (first.tokens, second.tokens) == (1000, 3000)
    assert first.queries == 60
    assert first.bytes_per_token == 512  # a key and a value of 64 float32
    for row in (first, second):
        assert row.exact_match == (0.0 if wrong else 1.0)
        assert row.symbol_accuracy == (0.75 if wrong else 1.0)
        assert row.exact_match_interval == wilson(60 * row.exact_match, 60)


@pytest.mark.thorough
def test_memory_that_a_store_takes_is_counted(tmp_path: Path) -> None:
    """In a process of its own: what other tests left free would be used again."""
    pytest.importorskip("psutil")
    new_model(0).save_pretrained(tmp_path)
    new_tokenizer().save_pretrained(tmp_path)
    sizes = "40k,50k"
    ended = process("eval", "dictionary", tmp_path, "--tokens", sizes, "--queries", 9, "--json")
    for row in json.loads(ended.out)["rows"]:
        assert row["ram"] > 0.5 * row["tokens"] * row["bytes_per_token"]


def test_without_psutil_memory_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fotmem.measure.evaluate.dictionary.find_spec", lambda name: None)
    with fotmem.attach(new_model(0)) as memory:
        oracle = Oracle(memory, wrong=False)
        [row] = measure_dictionary(oracle, memory, [1000], queries=60, store="exact", seed=1)
    assert row.ram is None


def test_impossible_measurements_are_refused() -> None:
    with (
        fotmem.attach(new_model(0)) as memory,
        pytest.raises(InputError, match="60 records to query take 600 tokens, got 500"),
    ):
        measure_dictionary(None, memory, [500], queries=60, store="exact", seed=0)
    with (
        fotmem.attach(tiny.llama(), layers=[1], window=16) as memory,
        pytest.raises(InputError, match="a model with 64 tokens, `dictionary-fot` or"),
    ):
        measure_dictionary(None, memory, [500], queries=6, store="exact", seed=0)


def test_records_as_text() -> None:
    record = make_records(1, draw())
    text = new_tokenizer().decode(record[0])
    assert text.split()[0] == "<k>"
    assert new_tokenizer()(text).input_ids == record[0].tolist()


@pytest.mark.thorough
def test_training_and_measuring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small: dict[str, Any] = {"documents": 2, "d": (1, 2), "steps": 4, "evaluate_every": 2}
    options = RECIPE.model_copy(update=small)
    trained = train_dictionary(tmp_path / "dictionary", options=options)
    again = train_dictionary(tmp_path / "again", options=options)
    assert [entry.get("loss") for entry in trained.history] == [
        entry.get("loss") for entry in again.history
    ]
    with pytest.raises(InputError, match="holds a training already"):
        train_dictionary(tmp_path / "dictionary", options=options)
    for _ in range(2):  # it is used at a temperature of its own, after a second run, too
        model = Qwen3ForCausalLM.from_pretrained(tmp_path / "dictionary")
        for layer, block in enumerate(model.model.layers):  # scores of memory stay bounded
            trained_gains = (block.self_attn.q_norm.weight, block.self_attn.k_norm.weight)
            kept = [bool((gains == GAIN).all()) for gains in trained_gains]
            assert kept == [layer == MEMORY_LAYER] * 2
        with fotmem.attach(model) as memory:
            assert memory.temperature == TEMPERATURE
        train_dictionary(tmp_path / "dictionary", options=options, resume=True)
    task = ("eval", "dictionary", tmp_path / "dictionary")
    ended = call(capsys, *task, "--tokens", "2k,3k", "--queries", 30, "--json")
    rows = json.loads(ended.out)["rows"]
    assert [row["tokens"] for row in rows] == [2040, 3070]
    assert all(row["queries"] == 30 and row["exact_match"] < 0.5 for row in rows)
    table = call(capsys, *task, "--tokens", "1k", "--queries", 9).out
    assert "512 B/token" in table
    for name in ("exact match", "symbols", "throughput", "memory", "RAM", "latency"):
        assert f"\n{name}: " in table


def test_bad_sizes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, 2, "eval", "dictionary", "x", "--tokens", "many")
    assert "expected sizes such as" in said
