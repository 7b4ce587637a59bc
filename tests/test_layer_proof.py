"""A layer whose keys the adapter makes in another way than the layer itself is refused."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding

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


class NoRotation(RotaryAdapter):
    def rotate(self, query: Tensor, key: Tensor, position_embeddings: Any) -> tuple[Tensor, Tensor]:
        return query, key


class SinFirst(LlamaAttention):
    """Takes ``(sin, cos)``, as GPT-J does."""

    def forward(self, hidden_states: Tensor, position_embeddings: Any, **kwargs: Any) -> Any:
        sin, cos = position_embeddings
        return super().forward(hidden_states, (cos, sin), **kwargs)


class SinFirstEmbedding(LlamaRotaryEmbedding):
    def forward(self, x: Tensor, position_ids: Tensor) -> Any:
        cos, sin = super().forward(x, position_ids)
        return sin, cos


class SinFirstAdapter(RotaryAdapter):
    def rotate(self, query: Tensor, key: Tensor, position_embeddings: Any) -> tuple[Tensor, Tensor]:
        sin, cos = position_embeddings
        return super().rotate(query, key, (cos, sin))


class WholeSinFirstAdapter(SinFirstAdapter):
    def first_position_embeddings(self, position_embeddings: Any) -> Any:
        sin, cos = position_embeddings
        cos, sin = super().first_position_embeddings((cos, sin))
        return sin, cos


class Complex(LlamaAttention):
    """Takes complex numbers, as Llama 4 does."""

    def forward(self, hidden_states: Tensor, position_embeddings: Any, **kwargs: Any) -> Any:
        cos, sin = position_embeddings.real, position_embeddings.imag
        return super().forward(hidden_states, (cos, sin), **kwargs)


class ComplexEmbedding(LlamaRotaryEmbedding):
    def forward(self, x: Tensor, position_ids: Tensor) -> Any:
        return torch.complex(*super().forward(x, position_ids))


class ComplexAdapter(RotaryAdapter):
    def rotate(self, query: Tensor, key: Tensor, position_embeddings: Any) -> tuple[Tensor, Tensor]:
        cos, sin = position_embeddings.real, position_embeddings.imag
        return super().rotate(query, key, (cos, sin))


def rebuilt(attention: type[LlamaAttention], embedding: type[LlamaRotaryEmbedding]) -> Any:
    """Return a LLaMA with YaRN whose decoder passes position embeddings in another form."""
    model = families.tiny("llama", rope_parameters=ROPE["yarn"])
    model.model.rotary_emb.__class__ = embedding
    for layer in model.model.layers:
        layer.self_attn.__class__ = attention
    return model


def know(monkeypatch: pytest.MonkeyPatch, adapter: type[RotaryAdapter], model: object) -> None:
    spec = AdapterSpec(name="known", architectures=(type(model).__name__,), factory=adapter)
    monkeypatch.setattr(registry(), "adapters", {"known": spec})


def refused(
    model: Any, layer: int, adapter: str, distance: int, place: str = "at the first position"
) -> None:
    with fotmem.attach(model, layers=[layer], window=16, distance=distance) as memory:
        match = rf"memory in layer {layer}, where {adapter} makes other keys {place} than the layer"
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


@pytest.mark.parametrize("distance", [0, 30])
@pytest.mark.parametrize(
    "attention, embedding, adapter",
    [
        (SinFirst, SinFirstEmbedding, WholeSinFirstAdapter),
        (Complex, ComplexEmbedding, ComplexAdapter),
    ],
)
def test_position_embeddings_may_have_other_forms(
    attention: Any, embedding: Any, adapter: Any, distance: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = rebuilt(attention, embedding)
    know(monkeypatch, adapter, model)
    with fotmem.attach(model, layers=[0, 1], window=16, distance=distance) as memory:
        memory.read(TOKENS)
        assert len(memory) == 40


def test_the_refusal_names_the_method_for_other_position_embeddings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = rebuilt(SinFirst, SinFirstEmbedding)
    know(monkeypatch, SinFirstAdapter, model)
    refused(model, 1, "SinFirstAdapter", 0)
    fotmem.attach(model, layers=[1], window=16)
    with pytest.raises(UnsupportedError, match=r"first_position_embeddings\(\) if the decoder"):
        model(TOKENS[None])


def test_the_refusal_says_that_keys_differ_at_their_positions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = families.tiny("llama")
    know(monkeypatch, NoRotation, model)
    refused(model, 1, "NoRotation", 0, "at their positions")
