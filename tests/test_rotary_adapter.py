"""Where `RotaryAdapter` finds a family's functions, whatever class the attention module has."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PersimmonConfig, PersimmonForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention

import fotmem
from fotmem.adapter import RotaryAdapter
from fotmem.errors import UnsupportedError
from fotmem.testing.adapter.fixtures import AdapterFixtures
from fotmem.testing.adapter.layer import LayerContract
from fotmem.testing.adapter.methods import MethodsContract
from tests import tiny
from tests.families import SIZES
from tests.tiny import LAYERS, WINDOW, difference, one_thread  # noqa: F401 - a fixture


class OwnAttention(LlamaAttention):
    """As a user's code may derive it: its module has no function of the family."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


class OtherAttention(nn.Module):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states


def test_a_class_that_is_derived_from_the_familys() -> None:
    model, question = tiny.llama(), tiny.ids(WINDOW)
    expected = model(question).logits
    for layer in LAYERS:
        model.model.layers[layer].self_attn.__class__ = OwnAttention
    with fotmem.attach(model, layers=LAYERS, window=WINDOW) as memory:
        assert difference(model(question).logits, expected) <= 1e-5
        memory.read(question)
        assert len(memory) == WINDOW


def test_a_class_of_no_family_is_refused_by_name() -> None:
    adapter = RotaryAdapter().for_layer(OtherAttention())
    key = torch.ones(1, 1, 1, 2)
    with pytest.raises(UnsupportedError, match="has no function apply_rotary_pos_emb"):
        adapter.rotate(key, key, (key[:, 0], key[:, 0]))


def adapted(**config: Any) -> tuple[RotaryAdapter, Any]:
    """Return the adapter of a layer of a LLaMA, and its decoder."""
    decoder = tiny.llama().model
    for name, value in config.items():
        setattr(decoder.config, name, value)
    return RotaryAdapter().for_layer(decoder.layers[0].self_attn), decoder


@pytest.mark.parametrize("rope", [None, object()])
@pytest.mark.parametrize("config", [{}, {"layer_types": ["full_attention"] * 4}])
def test_without_an_attention_factor_it_is_1(rope: object, config: dict[str, Any]) -> None:
    adapter, decoder = adapted(**config)
    decoder.rotary_emb = None
    if rope is not None:
        decoder.rotary_emb = torch.nn.Identity()
    assert adapter.attention_factor(decoder) == 1.0
    key = torch.ones(1, 2, 3, 8)
    assert torch.equal(adapter.at_first_position(key, decoder), key)


@pytest.mark.parametrize(
    "config, names",
    [
        ({}, "attention_scaling"),
        (
            {"layer_types": ["sliding_attention"] * 4},
            "attention_scaling or sliding_attention_attention_scaling",
        ),
    ],
)
def test_an_attention_factor_of_other_types_of_layers_is_refused(
    config: dict[str, Any], names: str
) -> None:
    adapter, decoder = adapted(**config)
    del decoder.rotary_emb.attention_scaling
    decoder.rotary_emb.full_attention_attention_scaling = 1.5
    with pytest.raises(UnsupportedError) as error:
        adapter.attention_factor(decoder)
    assert str(error.value) == (
        f"a decoder whose rotary_emb has no {names} cannot be used while a memory is attached; in "
        "its adapter, override attention_factor"
    )


class PersimmonAdapter(RotaryAdapter):
    """Its dropout is a module; each head has its query, key and value beside each other."""

    projections = ("query_key_value",)
    norms = ("q_layernorm", "k_layernorm")
    output_projection = "dense"

    def geometry(self, attention: Any) -> tuple[int, int, float]:
        return attention.num_heads, attention.head_dim, attention.scaling

    def project_heads(self, attention: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        joined = attention.query_key_value(hidden_states)
        heads = joined.unflatten(-1, (attention.num_heads, 3, attention.head_dim)).unbind(-2)
        query, key, value = (part.transpose(1, 2) for part in heads)
        return query, key, value


class TestDropoutThatIsAModule(AdapterFixtures):
    run = MethodsContract.run
    test_keys = MethodsContract.test_rotated_keys_are_the_models_own
    test_dropout = LayerContract.test_dropout_in_training_is_the_models_own

    @pytest.fixture
    def model(self) -> Any:
        others = ("num_key_value_heads", "head_dim")
        sizes = {name: size for name, size in SIZES.items() if name not in others}
        return PersimmonForCausalLM(PersimmonConfig(**sizes))

    @pytest.fixture
    def adapter(self) -> RotaryAdapter:
        return PersimmonAdapter()
