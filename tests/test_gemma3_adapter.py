"""An adapter for Gemma 3, as a plugin's author writes it: layers rotate by their type."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Gemma3ForCausalLM, Gemma3TextConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gemma3.modeling_gemma3 import apply_rotary_pos_emb, eager_attention_forward

import fotmem
from fotmem.adapter import Adapter
from fotmem.errors import UnsupportedError
from fotmem.plugin import AdapterSpec
from fotmem.plugin.registry import registry
from fotmem.testing import AdapterContract

ROPE = {"rope_type": "default", "rope_theta": 1e4}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
KINDS = {
    "plain": {"full_attention": {**ROPE, "rope_theta": 1e6}, "sliding_attention": ROPE},
    "yarn in full layers": {"full_attention": YARN, "sliding_attention": ROPE},
    "yarn in sliding layers": {"full_attention": ROPE, "sliding_attention": YARN},
}


class Gemma3Adapter(Adapter):
    """Memory layers for `transformers.Gemma3ForCausalLM`."""

    def __init__(self, layer_type: str = "full_attention") -> None:
        self.layer_type = layer_type

    def for_layer(self, attention: Any) -> Adapter:
        return Gemma3Adapter(attention.layer_type)

    def decoder(self, model: Any) -> nn.Module:
        decoder: nn.Module = model.model
        return decoder

    def attentions(self, decoder: Any) -> list[nn.Module]:
        return [layer.self_attn for layer in decoder.layers]

    def geometry(self, attention: Any) -> tuple[int, int, float]:
        return attention.config.num_key_value_heads, attention.head_dim, attention.scaling

    def project(self, attention: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heads = (*hidden_states.shape[:-1], -1, attention.head_dim)
        query = attention.q_norm(attention.q_proj(hidden_states).view(heads))
        key = attention.k_norm(attention.k_proj(hidden_states).view(heads))
        value = attention.v_proj(hidden_states).view(heads)
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)

    def rotate(self, query: Tensor, key: Tensor, position_embeddings: Any) -> tuple[Tensor, Tensor]:
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        return query, key

    def at_first_position(self, key: Tensor, decoder: Any) -> Tensor:
        factor: float = getattr(decoder.rotary_emb, f"{self.layer_type}_attention_scaling")
        return key * factor

    def attend(
        self,
        attention: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        **kwargs: Any,
    ) -> Tensor:
        function = ALL_ATTENTION_FUNCTIONS.get_interface(
            attention.config._attn_implementation, eager_attention_forward
        )
        output, _ = function(
            attention,
            query,
            key,
            value,
            mask,
            dropout=attention.attention_dropout if attention.training else 0.0,
            scaling=attention.scaling,
            sliding_window=attention.sliding_window,
            **kwargs,
        )
        flat: Tensor = output.flatten(2)
        return flat

    def project_out(self, attention: Any, output: Tensor) -> Tensor:
        projected: Tensor = attention.o_proj(output)
        return projected


class BlindAdapter(Gemma3Adapter):
    """Takes all layers for those with full attention."""

    def for_layer(self, attention: Any) -> Adapter:
        return self


def gemma3(kind: str = "plain", **overrides: Any) -> Gemma3ForCausalLM:
    sizes: dict[str, Any] = {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "sliding_window": 6,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": KINDS[kind],
    }
    torch.manual_seed(0)
    model: Gemma3ForCausalLM = Gemma3ForCausalLM(Gemma3TextConfig(**{**sizes, **overrides})).eval()
    return model


class TestGemma3Adapter(AdapterContract):
    @pytest.fixture(params=KINDS)
    def model(self, request: Any) -> Gemma3ForCausalLM:
        return gemma3(request.param)

    @pytest.fixture
    def adapter(self) -> Adapter:
        return Gemma3Adapter()


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch, request: Any) -> None:
    spec = AdapterSpec(name="gemma3", architectures=("Gemma3ForCausalLM",), factory=request.param)
    monkeypatch.setattr(registry(), "adapters", {"gemma3": spec})


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("known", [BlindAdapter], indirect=True)
@pytest.mark.parametrize("distance", [0, 30])
def test_an_adapter_that_does_not_know_the_layer_is_refused_where_it_matters(distance: int) -> None:
    tokens = torch.arange(1, 41)
    with fotmem.attach(gemma3(), layers=[0, 1], window=16, distance=distance) as memory:
        memory.read(tokens)  # one factor for all: 1
        assert len(memory) == 40
    for kind, wrong, right in [("yarn in full layers", 0, 1), ("yarn in sliding layers", 0, 1)]:
        model = gemma3(kind)
        with fotmem.attach(model, layers=[wrong], window=16, distance=distance) as memory:
            match = rf"memory in layer {wrong}, whose keys BlindAdapter makes in another way"
            with pytest.raises(UnsupportedError, match=match):
                memory.read(tokens)
            with pytest.raises(UnsupportedError, match=match):
                model(tokens[None])
            assert len(memory) == len(memory.store(wrong)) == 0
        with fotmem.attach(model, layers=[right], window=16, distance=distance) as memory:
            memory.read(tokens)
            assert len(memory) == 40


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("known", [Gemma3Adapter], indirect=True)
def test_scores_that_are_soft_capped_are_refused() -> None:
    model = gemma3(attn_logit_softcapping=20.0)
    with pytest.raises(UnsupportedError, match="attention with soft-capped scores in layer 1"):
        fotmem.attach(model, layers=[1])
    assert not any("forward" in vars(module) for module in model.modules())
