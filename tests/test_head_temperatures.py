"""Temperatures that heads have learned: as one of all where they are alike, and checked."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import fotmem
from fotmem.errors import InputError, OptionError
from fotmem.models.tuned_adapter import apply, read_tuned_adapter
from tests import tiny
from tests.tiny import LAYERS, WINDOW, difference, one_thread  # noqa: F401 - a fixture

TOKENIZER = SimpleNamespace(decode=lambda ids: f"<{ids[0]}>")


def alike(temperature: float, layers: list[int] | tuple[int, ...] = LAYERS) -> Any:
    """A model whose heads have learned the same temperature."""
    model = tiny.llama()
    model.config.mem_head_temperatures = {str(layer): [temperature] * 4 for layer in layers}
    return model


@pytest.mark.parametrize("top_k", [None, 3])
def test_heads_that_are_alike_equal_one_temperature(top_k: int | None) -> None:
    ids = tiny.ids(3 * WINDOW, seed=1)  # longer than a window: some of it overflows
    found = []
    for model, temperature in ((alike(0.3), 0.5), (tiny.llama(), 0.15)):
        options: dict[str, Any] = {"window": WINDOW, "top_k": top_k, "decay": 0.5}
        with fotmem.attach(model, layers=LAYERS, temperature=temperature, **options) as memory:
            memory.read(tiny.ids(40))
            logits = model(ids).logits
            found.append((logits, memory.explain(TOKENIZER, top=9)))
    assert difference(found[0][0], found[1][0]) <= 1e-4
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert one._replace(weight=0) == other._replace(weight=0)
        assert one.weight == pytest.approx(other.weight, abs=1e-5)


def test_queries_for_a_store_are_those_of_the_heads() -> None:
    text = tiny.ids(WINDOW)
    seen = []
    for model in (alike(0.5, LAYERS[:1]), tiny.llama()):
        with fotmem.attach(model, layers=LAYERS, window=WINDOW) as memory:
            [window] = memory.observe(text, overlap=2)
            seen.append([window[layer].queries for layer in LAYERS])
    assert difference(seen[0][0], 2 * seen[1][0]) <= 1e-5
    assert torch.equal(seen[0][1], seen[1][1])


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([1.0], "must be numbers of heads by layer"),
        ({"1": [1.0] * 3}, "must have 4 finite numbers above 0 for layer 1"),
        ({"1": [1.0, 1.0, 1.0, 0.0]}, "must have 4 finite numbers above 0 for layer 1"),
        ({"1": [1.0, 1.0, 1.0, float("nan")]}, "must have 4 finite numbers above 0 for layer 1"),
        ({"1": [1.0, 1.0, 1.0, True]}, "must have 4 finite numbers above 0 for layer 1"),
        ({"1": "1111"}, "must have 4 finite numbers above 0 for layer 1"),
    ],
)
def test_other_things_in_a_config_are_refused(given: Any, reason: str) -> None:
    model = tiny.llama()
    model.config.mem_head_temperatures = given
    with pytest.raises(OptionError, match=f"mem_head_temperatures of the config {reason}"):
        fotmem.attach(model, layers=LAYERS, window=WINDOW)


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ("[1, 1, 1]", "must have 4 numbers for layer 1, got 3"),
        ("[1, 1, 1, 0]", "is damaged .mem_head_temperatures.1.3: .*greater than 0"),
        ('[1, 1, 1, "1"]', "is damaged .mem_head_temperatures.1.3: .*valid number"),
    ],
)
def test_an_adapter_with_other_heads_is_refused(tmp_path: Any, numbers: str, reason: str) -> None:
    text = f'{{"base": "", "mem_layers": [1], "mem_head_temperatures": {{"1": {numbers}}}}}'
    (tmp_path / "memory.json").write_text(text)
    with pytest.raises(InputError, match=reason):
        apply(tiny.llama(), tmp_path, read_tuned_adapter(tmp_path))
