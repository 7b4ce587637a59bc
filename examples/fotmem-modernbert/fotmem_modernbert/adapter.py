"""ModernBERT's decoder as transformers builds it: Ettin (Weller et al. 2025, arXiv:2507.11412)."""

from typing import Any

from torch import Tensor, nn

from fotmem.adapter import RotaryAdapter


class ModernBertDecoderAdapter(RotaryAdapter):
    """Memory layers for `transformers.ModernBertDecoderForCausalLM`."""

    output_projection = "Wo"
    other_parts = ("out_drop",)

    def attentions(self, decoder: Any) -> list[nn.Module]:
        return [layer.attn for layer in decoder.layers]

    def geometry(self, attention: Any) -> tuple[int, int, float]:
        return attention.num_heads, attention.head_dim, attention.scaling

    def project_out(self, attention: Any, output: Tensor) -> Tensor:
        return attention.out_drop(super().project_out(attention, output))
