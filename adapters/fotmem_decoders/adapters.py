"""Families that differ from LLaMA by more than `RotaryAdapter` reads from their modules."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from fotmem.adapter import RotaryAdapter


class BitNetAdapter(RotaryAdapter):
    """A norm before the output projection (Ma et al. 2024, arXiv:2402.17764)."""

    other_parts = ("attn_sub_norm",)

    def project_out(self, attention: Any, output: Tensor) -> Tensor:
        return super().project_out(attention, attention.attn_sub_norm(output))


class Cohere2Adapter(RotaryAdapter):
    """Only layers with a sliding window have rotary embeddings."""

    @property
    def rotates(self) -> bool:
        return self.attention.sliding_window is not None


class Cohere2MoeAdapter(Cohere2Adapter):
    """Some layers without a sliding window have rotary embeddings, too."""

    @property
    def rotates(self) -> bool:
        return super().rotates or bool(self.attention.force_rope)


class Exaone4Adapter(RotaryAdapter):
    """Where some layers have a sliding window, only these have rotary embeddings."""

    @property
    def rotates(self) -> bool:
        return self.attention.sliding_window is None or bool(self.attention.is_sliding)


class HunYuanAdapter(RotaryAdapter):
    """Queries and keys are normalised after they were rotated."""

    norms = ("query_layernorm", "key_layernorm")

    def project(self, attention: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.project_heads(attention, hidden_states)

    def rotate(self, query: Tensor, key: Tensor, position_embeddings: Any) -> tuple[Tensor, Tensor]:
        query, key = super().rotate(query, key, position_embeddings)
        query_norm, key_norm = (getattr(self.attention, name) for name in self.norms)
        return query_norm(query), key_norm(key)

    def at_first_position(self, key: Tensor, decoder: Any) -> Tensor:
        normalised: Tensor = getattr(self.attention, self.norms[1])(
            super().at_first_position(key, decoder)
        )
        return normalised

    def at_positions(self, key: Tensor, decoder: Any, positions: Tensor) -> Tensor:
        """Rotate what was normalised; the weight of the norm comes last."""
        weight = getattr(getattr(self.attention, self.norms[1]), "weight", 1.0)
        plain = self.scaled(key / weight, decoder, 1 / self.attention_factor(decoder))
        embeddings = self.embeddings_at(decoder, key, positions)
        rotated: Tensor = super().rotate(plain, plain, embeddings)[1] * weight
        return rotated


class NanoChatAdapter(HunYuanAdapter):
    """As HunYuan, by other names."""

    norms = ("q_norm", "k_norm")


class OlmoAdapter(RotaryAdapter):
    """Projections are clipped (Groeneveld et al. 2024, arXiv:2402.00838)."""

    def project(self, attention: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = super().project(attention, hidden_states)
        limit = attention.config.clip_qkv
        if limit is None:
            return query, key, value
        return query.clamp(-limit, limit), key.clamp(-limit, limit), value.clamp(-limit, limit)


class PhiAdapter(RotaryAdapter):
    """Other names of the same parts."""

    norms = ("q_layernorm", "k_layernorm")
    output_projection = "dense"


class Phi3Adapter(RotaryAdapter):
    """One projection for query, key and value."""

    projections = ("qkv_proj",)


class PhimoeAdapter(RotaryAdapter):
    """LongRoPE has factors of its own: one up to the length of pretraining, one beyond."""

    def attention_factor(self, decoder: Any) -> float:
        factor: float = decoder.config.rope_parameters.get("short_mscale", 1.0)
        return factor

    def embeddings_at(self, decoder: Any, query: Tensor, positions: Tensor) -> Any:
        """Add position 0: tokens whose last position is -1 would get no factor."""
        more = F.pad(positions, (0, 1))
        return tuple(each[:, :-1] for each in super().embeddings_at(decoder, query, more))


class ResidualDropoutAdapter(RotaryAdapter):
    """In training, dropout after the output projection."""

    def project_out(self, attention: Any, output: Tensor) -> Tensor:
        projected = super().project_out(attention, output)
        return F.dropout(projected, attention.residual_dropout, attention.training)


class SmolLM3Adapter(RotaryAdapter):
    """Every fourth layer has no rotary embeddings (Yang et al. 2025, arXiv:2501.18795)."""

    @property
    def rotates(self) -> bool:
        return bool(self.attention.use_rope)


class StableLmAdapter(RotaryAdapter):
    """Every head has a norm of its own."""

    norms = ("q_layernorm", "k_layernorm")

    def project(self, attention: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = self.project_heads(attention, hidden_states)
        if not attention.qk_layernorm:
            return query, key, value
        return attention.q_layernorm(query), attention.k_layernorm(key), value
