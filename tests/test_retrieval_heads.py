"""Retrieval heads: found by the facts that they attend to, checked where they are read."""

import json
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fotmem
from fotmem.errors import InputError, OptionError
from fotmem.memory.retrieval import HeadAttention
from fotmem.models.tokens import token_ids
from fotmem.models.tuned_adapter import apply, read_tuned_adapter
from fotmem.tasks.facts import Facts
from fotmem.training import retrieval_heads
from fotmem.training.retrieval_heads import FACTS, find_retrieval_heads
from tests import folders, tiny
from tests.tiny import LAYERS, WINDOW, one_thread  # noqa: F401 - a fixture

TOKENIZER = folders.tokenizer()
DOCUMENTS = [torch.tensor(token_ids(TOKENIZER, folders.PROSE[i : i + 5000])) for i in (0, 9000)]
SEED = 5


def found_in(model: Any, **changed: Any) -> dict[int, list[int]]:
    chosen: dict[str, Any] = {"window": WINDOW, "seed": SEED, "progress": False} | changed
    return find_retrieval_heads(model, TOKENIZER, DOCUMENTS, **chosen)


def configured() -> Any:
    model = folders.model()
    model.config.mem_layers = list(LAYERS)
    return model


def test_heads_are_those_that_attend_to_the_fact_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Here three heads find facts, one of them less, and all others give more to something else."""
    asked: list[str] = []

    def attention(memory: Any, prompt: Tensor, asking: int) -> tuple[None, dict[int, Any]]:
        question, text = str(TOKENIZER.decode(prompt[-asking:])), memory.tokens.tolist()
        every = map(Facts(SEED + 3 * 10**6).__getitem__, range(FACTS))
        [fact] = [one for one in every if one.key.lower() in question.lower()]
        asked.append(fact.key)
        ends = list(accumulate(len(TOKENIZER.decode([token])) for token in text))
        written = str(TOKENIZER.decode(text))
        said = written.lower().index(fact.key.lower())
        place = bisect_right(ends, written.index(fact.answer, max(0, said - 80)))
        ids, shares = torch.zeros(4, asking, 2).long(), torch.full((4, asking, 2), 0.5)
        ids[:, :, 1] = place
        shares[:, :, 1] = 0.01
        found = {layer: HeadAttention(ids, shares.clone()) for layer in LAYERS}
        found[1].shares[2, 0, 1] = found[3].shares[0, 0, 1] = 0.9
        found[3].shares[3, :, 1] = 0.05
        return None, found

    monkeypatch.setattr(retrieval_heads, "attention_of_heads", attention)
    monkeypatch.setattr(retrieval_heads, "LEAST", 3)
    assert found_in(configured(), window=64) == {1: [2], 3: [0, 3]}
    assert len(set(asked)) == FACTS


def test_heads_are_the_same_again_and_one_in_ten_or_four() -> None:
    model = configured()
    found = found_in(model)
    assert sum(map(len, found.values())) == 4
    assert found == found_in(model)
    with fotmem.attach(model, window=WINDOW):  # has its own forward functions again
        pass


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([1], "must be numbers of heads by layer"),
        ({"1": [0, 4]}, "must have numbers from 0 to 3 for layer 1, each once"),
        ({"1": [2, 2]}, "must have numbers from 0 to 3 for layer 1, each once"),
        ({"1": [True]}, "must have numbers from 0 to 3 for layer 1, each once"),
        ({"1": "12"}, "must have numbers from 0 to 3 for layer 1, each once"),
        ({"1": 0}, "must have numbers from 0 to 3 for layer 1, each once"),
    ],
)
def test_other_things_in_a_config_are_refused(given: Any, reason: str) -> None:
    model = tiny.llama()
    model.config.mem_retrieval_heads = given
    with pytest.raises(OptionError, match=f"mem_retrieval_heads of the config {reason}"):
        fotmem.attach(model, layers=LAYERS, window=WINDOW)


@pytest.mark.parametrize(
    ("layer", "numbers", "reason"),
    [
        (1, [4], r"must have numbers below 4 for layer 1, each once, got \[4\]"),
        (1, [0, 0], r"must have numbers below 4 for layer 1, each once, got \[0, 0\]"),
        (1, [-1], "is damaged .mem_retrieval_heads.1.0: .*greater than or equal to 0"),
        (2, [0], "layer 2 is none of mem_layers"),
    ],
)
def test_an_adapter_with_other_heads_is_refused(
    tmp_path: Path, layer: int, numbers: list[int], reason: str
) -> None:
    content = {"base": "", "mem_layers": [1], "mem_retrieval_heads": {layer: numbers}}
    (tmp_path / "memory.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=reason):
        apply(tiny.llama(), tmp_path, read_tuned_adapter(tmp_path))
