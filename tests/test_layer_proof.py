"""A layer whose keys the adapter makes in another way than the layer itself is refused."""

from typing import Any

import pytest
import torch
from torch import Tensor

import fotmem
from fotmem.adapter import RotaryAdapter
from fotmem.errors import UnsupportedError
from fotmem.plugin import AdapterSpec
from fotmem.plugin.registry import registry
from fotmem_decoders.adapters import HunYuanAdapter
from tests import families
from tests.families import ROPE

TOKENS = torch.arange(1, 41)


class FactorOfFullLayers(RotaryAdapter):
    """Takes all layers for those with full attention."""

    def at_first_position(self, key: Tensor, decoder: Any) -> Tensor:
        scaled: Tensor = key * decoder.rotary_emb.full_attention_attention_scaling
        return scaled


class NoNormAtTheFirstPosition(HunYuanAdapter):
    def at_first_position(self, key: Tensor, decoder: Any) -> Tensor:
        return key


def know(monkeypatch: pytest.MonkeyPatch, adapter: type[RotaryAdapter], model: object) -> None:
    spec = AdapterSpec(name="known", architectures=(type(model).__name__,), factory=adapter)
    monkeypatch.setattr(registry(), "adapters", {"known": spec})


def refused(model: Any, layer: int, adapter: str, distance: int) -> None:
    with fotmem.attach(model, layers=[layer], window=16, distance=distance) as memory:
        match = rf"memory in layer {layer}, whose keys {adapter} makes in another way"
        with pytest.raises(UnsupportedError, match=match):
            memory.read(TOKENS)
        with pytest.raises(UnsupportedError, match=match):
            model(TOKENS[None])
        assert len(memory) == len(memory.store(layer)) == 0


@pytest.mark.parametrize("distance", [0, 30])
@pytest.mark.parametrize("full, sliding", [("yarn", "default"), ("default", "yarn")])
def test_an_adapter_that_does_not_know_the_layer_is_refused_where_it_matters(
    distance: int, full: str, sliding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rope = {"full_attention": ROPE[full], "sliding_attention": ROPE[sliding]}
    model = families.tiny("gemma3", rope_parameters=rope)
    know(monkeypatch, FactorOfFullLayers, model)
    refused(model, 0, "FactorOfFullLayers", distance)
    with fotmem.attach(model, layers=[1], window=16, distance=distance) as memory:
        memory.read(TOKENS)
        assert len(memory) == 40


def test_equal_attention_factors_are_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = families.tiny("gemma3")
    know(monkeypatch, FactorOfFullLayers, model)
    with fotmem.attach(model, layers=[0, 1], window=16) as memory:
        memory.read(TOKENS)
        assert len(memory) == 40


@pytest.mark.parametrize("distance", [0, 30])
def test_keys_at_the_first_position_are_compared_number_by_number(
    distance: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = families.tiny("hunyuan-v1-dense")
    for norm in (layer.self_attn.key_layernorm for layer in model.model.layers):
        norm.weight.data = torch.linspace(0.5, 1.5, 8)
    know(monkeypatch, NoNormAtTheFirstPosition, model)
    refused(model, 1, "NoNormAtTheFirstPosition", distance)
