"""Adapters for families that fotmem has none for: the contract must accept them."""

import importlib
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from fotmem.adapter import Adapter

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}

SLIDING = ["sliding_attention", "full_attention"]
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {"use_sliding_window": True, "sliding_window": 6, "layer_types": SLIDING},
    "mistral": {"sliding_window": 5, "head_dim": 8},
    "qwen3": {"head_dim": 8},  # a norm on each head's query and key
    "olmo2": {},  # a norm on all of query and key
    "phi3": {"original_max_position_embeddings": 64},  # one projection for query, key and value
    "granite": {"attention_multiplier": 0.7},  # a scale of its own
    "cohere": {},  # RoPE on neighbours
    "starcoder2": {"use_bias": True, "sliding_window": None},
    "stablelm": {"hidden_size": 32, "partial_rotary_factor": 0.5},
    "cohere2": {"sliding_window": 6, "layer_types": SLIDING},  # no RoPE in full layers
    "smollm3": {"no_rope_layers": [1, 0]},
    "gemma2": {"attn_logit_softcapping": None, "sliding_window": 6, "head_dim": 8},
}


def tiny(family: str, **overrides: Any) -> Any:
    """Build a tiny model as transformers draws it."""
    name = {"gemma3": "gemma3_text"}.get(family, family)
    config = AutoConfig.for_model(name, **{**SIZES, **FAMILIES.get(family, {}), **overrides})
    return AutoModelForCausalLM.from_config(config).eval()


class FamilyAdapter(Adapter):
    """What is common to models built like LLaMA."""

    rotates = True

    def __init__(self, family: str) -> None:
        self.family = family
        self.code: Any = importlib.import_module(f"transformers.models.{family}.modeling_{family}")

    def for_layer(self, attention: Any) -> Adapter:
        """Some families have layers without RoPE."""
        told = {"smollm3": "use_rope", "cohere2": "sliding_window"}.get(self.family)
        if told is None or getattr(attention, told):
            return self
        own = type(self)(self.family)
        own.rotates = False
        return own

    def decoder(self, model: Any) -> nn.Module:
        found: nn.Module = model.model
        return found

    def attentions(self, decoder: Any) -> list[nn.Module]:
        return [layer.self_attn for layer in decoder.layers]

    def geometry(self, attention: Any) -> tuple[int, int, float]:
        return attention.config.num_key_value_heads, attention.head_dim, attention.scaling

    def flat(self, attention: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project to ``[B, T, heads * D]``."""
        if hasattr(attention, "qkv_proj"):
            heads, kv_heads = (
                count * attention.head_dim
                for count in (
                    attention.config.num_attention_heads,
                    attention.config.num_key_value_heads,
                )
            )
            return attention.qkv_proj(hidden_states).split([heads, kv_heads, kv_heads], -1)  # type: ignore[no-any-return]
        query, key = attention.q_proj(hidden_states), attention.k_proj(hidden_states)
        return query, key, attention.v_proj(hidden_states)

    def project(self, attention: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = self.flat(attention, hidden_states)
        heads = (*hidden_states.shape[:-1], -1, attention.head_dim)
        norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
        of_all = [norm is not None and norm.weight.shape[-1] != heads[-1] for norm in norms]
        parts = []
        for part, norm, flat in zip((query, key), norms, of_all, strict=True):
            normed = norm(part).view(heads) if norm is not None and flat else part.view(heads)
            parts.append(norm(normed) if norm is not None and not flat else normed)
        query, key, value = (part.transpose(1, 2) for part in (*parts, value.view(heads)))
        return query, key, value

    def rotate(self, query: Tensor, key: Tensor, position_embeddings: Any) -> tuple[Tensor, Tensor]:
        if not self.rotates:
            return query, key
        cos, sin = position_embeddings
        size = cos.shape[-1]  # StableLM rotates a part of each head
        rotated = self.code.apply_rotary_pos_emb(query[..., :size], key[..., :size], cos, sin)
        query, key = (
            torch.cat([part, whole[..., size:]], -1)
            for part, whole in zip(rotated, (query, key), strict=True)
        )
        return query, key

    def at_first_position(self, key: Tensor, decoder: Any) -> Tensor:
        return key

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
            attention.config._attn_implementation, self.code.eager_attention_forward
        )
        output, _ = function(
            attention, query, key, value, mask, dropout=0.0, scaling=attention.scaling, **kwargs
        )
        flat: Tensor = output.flatten(2)
        return flat

    def project_out(self, attention: Any, output: Tensor) -> Tensor:
        projected: Tensor = attention.o_proj(output)
        return projected
