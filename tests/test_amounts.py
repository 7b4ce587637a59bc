"""Amounts with units, and numbers of Python functions: read, or refused by name."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import fotmem
from fotmem import amounts
from fotmem.errors import InputError, OptionError, UnknownStoreError
from fotmem.measure.capture import Capture, capture_arrays, capture_model, capture_random
from fotmem.measure.evaluate.alternatives.asked_texts import of_facts
from fotmem.measure.evaluate.facts import make_facts
from fotmem.measure.evaluate.passkey import measure_passkey
from fotmem.measure.evaluate.passkey_trials import make_trials
from fotmem.tasks.pass_key import split_answer
from tests import folders, tiny


@pytest.mark.parametrize(
    ("read", "given", "value"),
    [
        (amounts.count, "1M", 2**20),
        (amounts.count, " 4k ", 4096),
        (amounts.count, "17", 17),
        (amounts.count, np.int64(3), 3),
        (amounts.count, torch.tensor(3), 3),
        (amounts.size_in_bytes, "16GiB", 2**34),
        (amounts.size_in_bytes, "1.5KiB", 1536),
        (amounts.size_in_bytes, 7, 7),
        (amounts.seconds, "5ms", 0.005),
        (amounts.seconds, "0.5s", 0.5),
        (amounts.seconds, 2, 2.0),
    ],
)
def test_amounts(read: Callable[[str, Any], float], given: Any, value: float) -> None:
    assert read("it", given) == value


NONE: list[Any] = [
    *(0, -1, True, None, math.nan, math.inf, 10**400, "", " ", "-1", "1e3", "x", "5 apples", "nan"),
    *("9" * 5000, "٣", [1], b"1", object(), 1j, torch.tensor([1, 2]), np.array([1.0])),
]


@pytest.mark.parametrize("read", [amounts.count, amounts.size_in_bytes, amounts.seconds])
def test_values_that_are_not_amounts_are_refused(read: Callable[[str, Any], float]) -> None:
    for given in NONE:
        with pytest.raises(OptionError, match=r"^it\b"):
            read("it", given)
    for given in (1.5, "1.5"):
        with pytest.raises(OptionError, match=r"^it\b"):
            amounts.count("it", given)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Capture:
    folder = tmp_path_factory.mktemp("captures") / "capture"
    return capture_random(folder, tokens=4, queries=2, num_heads=1, head_dim=2)


def test_select_reads_units(capture: Capture) -> None:
    """All is read before the second store is looked for."""
    given = {"tokens": "1M", "ram": "16GiB", "disk": "1TiB", "latency": "5ms"}
    with pytest.raises(UnknownStoreError, match="'exat'"):
        fotmem.select(capture, stores="exact,exat", **given)  # type: ignore[arg-type]


NO_NUMBER: list[Any] = [-1, math.nan, math.inf, "", "x", [1], 10**400]
SELECTED = [
    *("tokens", "ram", "disk", "latency", "max_error", "min_recall", "top_k", "threads", "seconds"),
    "persistent",
]


@pytest.mark.parametrize("name", SELECTED)
def test_select_refuses_by_name(name: str, capture: Capture) -> None:
    for given in NO_NUMBER:
        with pytest.raises(OptionError, match=rf"^{name}\b"):
            fotmem.select(capture, **{"tokens": 8, name: given})


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, True, "0", None, math.nan])
def test_seeds(seed: Any, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"^seed must be"):
        capture_random(tmp_path / "new", tokens=2, seed=seed)
    with pytest.raises(OptionError, match=r"^seed must be"):
        capture_model(tiny.llama(), [1] * 99, tmp_path / "new", tokens=2, seed=seed)
    assert not (tmp_path / "new").exists()


def test_numbers_of_captures(tmp_path: Path) -> None:
    for name in ("tokens", "queries", "num_heads", "head_dim"):
        for number in (0, -1, 1.5, math.nan, 2**60, None):
            with pytest.raises(OptionError, match=f"^{name}"):
                capture_random(tmp_path / "new", **{"tokens": 2, name: number})  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="num_heads \\* head_dim must be at most"):
        capture_random(tmp_path / "new", tokens=2, num_heads=2**20, head_dim=2)
    for mismatch in (-1, 1.5, math.nan, "1", None):
        with pytest.raises(OptionError, match=r"^mismatch must be from 0 to 1"):
            capture_random(tmp_path / "new", tokens=2, mismatch=mismatch)  # type: ignore[arg-type]
    keys = np.ones((4, 2))
    for scale in (0, -1, math.nan, math.inf, "1"):
        with pytest.raises(OptionError, match=r"^scale must be a number above 0"):
            capture_arrays(tmp_path / "new", keys, keys, scale=scale)  # type: ignore[arg-type]
    wrong: Any = [[1.0, 2.0]]
    with pytest.raises(InputError, match="keys must be an array, got list"):
        capture_arrays(tmp_path / "new", wrong, keys)
    assert not (tmp_path / "new").exists()


def without_digits() -> PreTrainedTokenizerFast:
    words = {word: number for number, word in enumerate(["<unk>", "captain", "sailed", "The"])}
    trained = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=trained, unk_token="<unk>")


def test_a_text_without_digits() -> None:
    tokenizer, text = without_digits(), "captain sailed " * 400
    with pytest.raises(InputError, match="the tokenizer has no digits: it turns 'The key is 123'"):
        split_answer(tokenizer, "The key is", "123")
    model = folders.model()
    trials = make_trials(tokenizer, text, tokens=60, trials=1, seed=0)
    with pytest.raises(InputError, match="the tokenizer has no digits"):
        list(measure_passkey(model, tokenizer, trials, None, None))
    with pytest.raises(InputError, match="the tokenizer has no digits"):
        of_facts(tokenizer, [1] * 40, make_facts(1, 0))
    with pytest.raises(InputError, match="the tokenizer has no digits"):
        fotmem.find_memory_layers(model, tokenizer, text=text, trials=1)
