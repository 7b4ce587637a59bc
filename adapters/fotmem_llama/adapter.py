"""LLaMA as transformers builds it: LLaMA, Llama 2 and 3, OpenLLaMA, SmolLM2, TinyLlama."""

from typing import Any, cast

from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaModel,
    apply_rotary_pos_emb,
    eager_attention_forward,
)

from fotmem.adapter import Adapter


class LlamaAdapter(Adapter):
    """Memory layers for `transformers.LlamaForCausalLM` (Touvron et al. 2023, arXiv:2302.13971)."""

    def decoder(self, model: nn.Module) -> nn.Module:
        return cast(nn.Module, model.model)

    def attentions(self, decoder: nn.Module) -> list[nn.Module]:
        layers: Any = cast(LlamaModel, decoder).layers
        return [layer.self_attn for layer in layers]

    def geometry(self, attention: nn.Module) -> tuple[int, int, float]:
        llama: Any = attention
        return llama.config.num_key_value_heads, llama.head_dim, llama.scaling

    def project(self, attention: nn.Module, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attention = cast(LlamaAttention, attention)
        heads = (*hidden_states.shape[:-1], -1, attention.head_dim)
        query, key, value = (
            projection(hidden_states).view(heads).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        return query, key, value

    def rotate(self, query: Tensor, key: Tensor, position_embeddings: Any) -> tuple[Tensor, Tensor]:
        cos, sin = position_embeddings
        query, key = apply_rotary_pos_emb(query, key, cos, sin)
        return query, key

    def at_first_position(self, key: Tensor, decoder: nn.Module) -> Tensor:
        # At position 0 nothing is rotated; YaRN and LongRoPE scale all the same.
        factor = cast(LlamaModel, decoder).rotary_emb.attention_scaling
        return key if factor == 1.0 else key * factor

    def attend(
        self,
        attention: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        **kwargs: Any,
    ) -> Tensor:
        attention = cast(LlamaAttention, attention)
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
            **kwargs,
        )
        return cast(Tensor, output).flatten(2)

    def project_out(self, attention: nn.Module, output: Tensor) -> Tensor:
        projected: Tensor = cast(LlamaAttention, attention).o_proj(output.contiguous())
        return projected
