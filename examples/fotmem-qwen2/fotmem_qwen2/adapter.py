"""Qwen2 as transformers builds it."""

from typing import Any

from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb, eager_attention_forward

from fotmem.adapter import Adapter


class Qwen2Adapter(Adapter):
    """Memory layers for `transformers.Qwen2ForCausalLM`."""

    def decoder(self, model: Any) -> nn.Module:
        return model.model

    def attentions(self, decoder: Any) -> list[nn.Module]:
        return [layer.self_attn for layer in decoder.layers]

    def geometry(self, attention: Any) -> tuple[int, int, float]:
        return attention.config.num_key_value_heads, attention.head_dim, attention.scaling

    def project(self, attention: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heads = (*hidden_states.shape[:-1], -1, attention.head_dim)
        query = attention.q_proj(hidden_states).view(heads).transpose(1, 2)
        key = attention.k_proj(hidden_states).view(heads).transpose(1, 2)
        value = attention.v_proj(hidden_states).view(heads).transpose(1, 2)
        return query, key, value

    def rotate(self, query: Tensor, key: Tensor, position_embeddings: Any) -> tuple[Tensor, Tensor]:
        cos, sin = position_embeddings
        return apply_rotary_pos_emb(query, key, cos, sin)

    def at_first_position(self, key: Tensor, decoder: Any) -> Tensor:
        return key * decoder.rotary_emb.attention_scaling

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
        return output.flatten(2)

    def project_out(self, attention: Any, output: Tensor) -> Tensor:
        return attention.o_proj(output)
