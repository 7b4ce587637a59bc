"""Mistakes in taking a model apart and in projecting."""

from typing import Any

from torch import Tensor, nn

from fotmem.adapter import RotaryAdapter
from tests.broken_adapters.caught import caught_by


@caught_by("test_decoder_is_the_module_that_runs_the_layers")
class WholeModelAsDecoder(RotaryAdapter):
    def decoder(self, model: nn.Module) -> nn.Module:
        return model

    def attentions(self, decoder: Any) -> list[nn.Module]:
        return super().attentions(getattr(decoder, "model", decoder))


@caught_by("test_attentions_are_those_of_all_layers_in_order")
class LayersBackwards(RotaryAdapter):
    def attentions(self, decoder: Any) -> list[nn.Module]:
        return super().attentions(decoder)[::-1]


@caught_by("test_attentions_are_those_of_all_layers_in_order")
class WholeLayersAsAttentions(RotaryAdapter):
    def attentions(self, decoder: Any) -> list[nn.Module]:
        return list(decoder.layers)


@caught_by("test_attentions_are_those_of_all_layers_in_order", "qwen2")
class FullAttentionOnly(RotaryAdapter):
    def attentions(self, decoder: Any) -> list[nn.Module]:
        return [each for each in super().attentions(decoder) if each.sliding_window is None]


@caught_by("test_geometry_is_that_of_the_keys")
class GeometryOfQueryHeads(RotaryAdapter):
    def geometry(self, attention: Any) -> tuple[int, int, float]:
        _, head_dim, scale = super().geometry(attention)
        return attention.config.num_attention_heads, head_dim, scale


@caught_by("test_geometry_is_that_of_the_keys", head_dim=12)
class HeadDimensionGuessed(RotaryAdapter):
    def geometry(self, attention: Any) -> tuple[int, int, float]:
        heads, _, scale = super().geometry(attention)
        config = attention.config
        return heads, config.hidden_size // config.num_attention_heads, scale


@caught_by("test_project_gives_heads")
class KeysRepeatedForQueries(RotaryAdapter):
    def project(self, attention: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = super().project(attention, hidden_states)
        groups = query.shape[1] // key.shape[1]
        return query, key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)


@caught_by("test_values_are_the_models_own")
class KeysForValues(RotaryAdapter):
    def project(self, attention: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, _ = super().project(attention, hidden_states)
        return query, key, key


@caught_by("test_values_are_the_models_own")
class TokensAndHeadsMixed(RotaryAdapter):
    def project(self, attention: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = super().project(attention, hidden_states)
        return query, key, value.transpose(1, 2).reshape(value.shape)


@caught_by("test_values_are_the_models_own", "olmo")
class ClippingDropped(RotaryAdapter):
    """Right for checkpoints that do not clip."""


@caught_by("test_rotated_keys_are_the_models_own", "qwen2")
class BiasDropped(RotaryAdapter):
    def project_heads(self, attention: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = super().project_heads(attention, hidden_states)
        heads = (1, -1, 1, attention.head_dim)
        query, key = (
            query - attention.q_proj.bias.view(heads),
            key - attention.k_proj.bias.view(heads),
        )
        return query, key, value


@caught_by("test_rotated_keys_are_the_models_own")
class KeyNormDropped(RotaryAdapter):
    def project(self, attention: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, _, value = super().project(attention, hidden_states)
        return query, self.project_heads(attention, hidden_states)[1], value


@caught_by("test_rotated_keys_are_the_models_own", "hunyuan-v1-dense")
class NormBeforeRotation(RotaryAdapter):
    norms = ("query_layernorm", "key_layernorm")
