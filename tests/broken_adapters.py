"""Adapters with one mistake each, and the test of the contract that must tell."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fotmem.adapter import Adapter
from fotmem.errors import UnsupportedError
from tests.families import SLIDING, YARN, FamilyAdapter

GEMMA3: dict[str, Any] = {"head_dim": 8, "layer_types": SLIDING, "sliding_window": 6}

BROKEN: dict[type[FamilyAdapter], tuple[str, str, dict[str, Any]]] = {}
"""For each: the test, the family that shows the mistake, and what its config must say."""


def caught_by(test: str, family: str = "qwen3", **config: Any) -> Any:
    def enter(adapter: type[FamilyAdapter]) -> type[FamilyAdapter]:
        BROKEN[adapter] = test, family, config
        return adapter

    return enter


def swapped(heads: Tensor, one: int, two: int) -> Tensor:
    """Order heads ``[B, H * G, T, D]`` from ``[one, two]`` to ``[two, one]``."""
    parts: Tensor = heads.unflatten(1, (one, two))
    return parts.transpose(1, 2).flatten(1, 2)


@caught_by("test_decoder_is_the_module_that_runs_the_layers")
class WholeModelAsDecoder(FamilyAdapter):
    def decoder(self, model: nn.Module) -> nn.Module:
        return model

    def attentions(self, decoder: Any) -> list[nn.Module]:
        return super().attentions(getattr(decoder, "model", decoder))


@caught_by("test_attentions_are_those_of_all_layers_in_order")
class LayersBackwards(FamilyAdapter):
    def attentions(self, decoder: Any) -> list[nn.Module]:
        return super().attentions(decoder)[::-1]


@caught_by("test_attentions_are_those_of_all_layers_in_order")
class WholeLayersAsAttentions(FamilyAdapter):
    def attentions(self, decoder: Any) -> list[nn.Module]:
        return list(decoder.layers)


@caught_by("test_attentions_are_those_of_all_layers_in_order", "qwen2")
class FullAttentionOnly(FamilyAdapter):
    def attentions(self, decoder: Any) -> list[nn.Module]:
        return [each for each in super().attentions(decoder) if each.sliding_window is None]


@caught_by("test_geometry_is_that_of_the_keys")
class GeometryOfQueryHeads(FamilyAdapter):
    def geometry(self, attention: Any) -> tuple[int, int, float]:
        _, head_dim, scale = super().geometry(attention)
        return attention.config.num_attention_heads, head_dim, scale


@caught_by("test_geometry_is_that_of_the_keys")
class HeadDimensionGuessed(FamilyAdapter):
    def geometry(self, attention: Any) -> tuple[int, int, float]:
        heads, _, scale = super().geometry(attention)
        config = attention.config
        return heads, config.hidden_size // config.num_attention_heads, scale


@caught_by("test_attention_is_one_of_scaled_products")
class NoScale(FamilyAdapter):
    def geometry(self, attention: Any) -> tuple[int, int, float]:
        return *super().geometry(attention)[:2], 1.0


@caught_by("test_attention_is_one_of_scaled_products", "granite")
class ScaleGuessed(FamilyAdapter):
    def geometry(self, attention: Any) -> tuple[int, int, float]:
        heads, head_dim, _ = super().geometry(attention)
        return heads, head_dim, head_dim**-0.5


@caught_by("test_grouped_queries_share_the_right_head")
class HeadsInterleaved(FamilyAdapter):
    """Its own `attend` puts them right again, as if the model wanted it so."""

    def project(self, attention: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = super().project(attention, hidden_states)
        return swapped(query, key.shape[1], query.shape[1] // key.shape[1]), key, value

    def attend(
        self,
        attention: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        **kwargs: Any,
    ) -> Tensor:
        groups, heads = query.shape[1] // key.shape[1], key.shape[1]
        query = swapped(query, groups, heads)
        output = super().attend(attention, query, key, value, mask, **kwargs)
        mixed: Tensor = output.unflatten(2, (heads, groups, -1))
        return mixed.transpose(2, 3).flatten(2)

    def project_out(self, attention: Any, output: Tensor) -> Tensor:
        heads = attention.config.num_key_value_heads
        groups = attention.config.num_attention_heads // heads
        return super().project_out(
            attention, output.unflatten(2, (groups, heads, -1)).transpose(2, 3).flatten(2)
        )


@caught_by("test_project_gives_heads")
class KeysRepeatedForQueries(FamilyAdapter):
    def project(self, attention: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = super().project(attention, hidden_states)
        groups = query.shape[1] // key.shape[1]
        return query, key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)


@caught_by("test_values_are_the_models_own")
class KeysForValues(FamilyAdapter):
    def project(self, attention: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, _ = super().project(attention, hidden_states)
        return query, key, key


@caught_by("test_values_are_the_models_own")
class TokensAndHeadsMixed(FamilyAdapter):
    def project(self, attention: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = super().project(attention, hidden_states)
        return query, key, value.transpose(1, 2).reshape(value.shape)


@caught_by("test_rotated_keys_are_the_models_own", "qwen2")
class BiasDropped(FamilyAdapter):
    def flat(self, attention: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        _, _, value = super().flat(attention, hidden_states)
        query, key = (
            F.linear(hidden_states, part.weight) for part in (attention.q_proj, attention.k_proj)
        )
        return query, key, value


@caught_by("test_rotated_keys_are_the_models_own")
class KeyNormDropped(FamilyAdapter):
    def project(self, attention: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = super().project(attention, hidden_states)
        plain = attention.k_proj(hidden_states).view(*hidden_states.shape[:-1], -1, key.shape[-1])
        return query, plain.transpose(1, 2), value


@caught_by("test_attention_is_one_of_scaled_products")
class QueryNormDropped(FamilyAdapter):
    def project(self, attention: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        _, key, value = super().project(attention, hidden_states)
        plain = attention.q_proj(hidden_states).view(*hidden_states.shape[:-1], -1, key.shape[-1])
        return plain.transpose(1, 2), key, value


@caught_by("test_rotated_keys_are_the_models_own")
class KeysNotRotated(FamilyAdapter):
    def rotate(self, query: Tensor, key: Tensor, position_embeddings: Any) -> tuple[Tensor, Tensor]:
        return super().rotate(query, key, position_embeddings)[0], key


@caught_by("test_rotated_keys_are_the_models_own")
class KeysRotatedTwice(FamilyAdapter):
    def rotate(self, query: Tensor, key: Tensor, position_embeddings: Any) -> tuple[Tensor, Tensor]:
        query, once = super().rotate(query, key, position_embeddings)
        return query, super().rotate(query, once, position_embeddings)[1]


@caught_by("test_attention_is_one_of_scaled_products")
class QueriesNotRotated(FamilyAdapter):
    def rotate(self, query: Tensor, key: Tensor, position_embeddings: Any) -> tuple[Tensor, Tensor]:
        return query, super().rotate(query, key, position_embeddings)[1]


@caught_by("test_rotated_keys_are_the_models_own")
class PositionsOfTheFirstRow(FamilyAdapter):
    def rotate(self, query: Tensor, key: Tensor, position_embeddings: Any) -> tuple[Tensor, Tensor]:
        cos, sin = position_embeddings
        return super().rotate(query, key, (cos[:1], sin[:1]))


@caught_by("test_rotated_keys_are_the_models_own", "cohere")
class HalvesForNeighbours(FamilyAdapter):
    """LLaMA's RoPE in a family that rotates neighbours."""

    def rotate(self, query: Tensor, key: Tensor, position_embeddings: Any) -> tuple[Tensor, Tensor]:
        cos, sin = (part[:, None, :, ::2].repeat(1, 1, 1, 2) for part in position_embeddings)

        def turned(part: Tensor) -> Tensor:
            one, two = part.chunk(2, -1)
            whole: Tensor = part * cos + torch.cat([-two, one], -1) * sin
            return whole

        return turned(query), turned(key)


@caught_by("test_what_comes_in_is_not_changed")
class RotatedInPlace(FamilyAdapter):
    def rotate(self, query: Tensor, key: Tensor, position_embeddings: Any) -> tuple[Tensor, Tensor]:
        rotated = super().rotate(query, key, position_embeddings)
        return query.copy_(rotated[0]), key.copy_(rotated[1])


@caught_by("test_keys_at_the_first_position")
class FirstPositionIsTheSecond(FamilyAdapter):
    def at_first_position(self, key: Tensor, decoder: Any) -> Tensor:
        places = torch.ones(1, key.shape[2], dtype=torch.long)
        return self.rotate(key, key, decoder.rotary_emb(key, position_ids=places))[1]


@caught_by("test_keys_at_the_first_position", rope_parameters=YARN)
class AttentionFactorLeftOut(FamilyAdapter):
    """`FamilyAdapter` leaves it out, too; YaRN has one."""


@caught_by("test_keys_at_the_first_position")
class KeysHeldAtTheirPositions(FamilyAdapter):
    def at_first_position(self, key: Tensor, decoder: Any) -> Tensor:
        places = torch.arange(key.shape[2])[None]
        return self.rotate(key, key, decoder.rotary_emb(key, position_ids=places))[1]


@caught_by("test_rotated_keys_are_the_models_own", "smollm3")
class RotatesInEveryLayer(FamilyAdapter):
    def for_layer(self, attention: Any) -> Adapter:
        return self


@caught_by("test_each_layer_has_its_own_positions", "gemma3", **GEMMA3)
class OneFactorForEveryLayer(FamilyAdapter):
    """Right as long as all factors are 1."""


@caught_by("test_each_layer_has_its_own_positions", "gemma3", **GEMMA3)
class FactorOfFullLayers(FamilyAdapter):
    def at_first_position(self, key: Tensor, decoder: Any) -> Tensor:
        scaled: Tensor = key * decoder.rotary_emb.full_attention_attention_scaling
        return scaled


@caught_by("test_other_layers_are_refused", "smollm3")
class RefusesNothing(FamilyAdapter):
    """Its test class says that only the first layer can have memory."""

    layers = (0,)


@caught_by("test_some_layers_can_have_memory")
class RefusesEverything(FamilyAdapter):
    def for_layer(self, attention: Any) -> Adapter:
        raise UnsupportedError("this layer", "choose another one")


@caught_by("test_some_layers_can_have_memory", "gemma2", attn_logit_softcapping=20.0)
class SoftCapped(FamilyAdapter):
    """Nothing that an adapter does makes these layers fit."""


@caught_by("test_parts_compose_to_the_models_own_layer")
class ProjectOutSkipped(FamilyAdapter):
    def project_out(self, attention: Any, output: Tensor) -> Tensor:
        return output[..., : attention.config.hidden_size]


@caught_by("test_parts_compose_to_the_models_own_layer", "starcoder2")
class OutputBiasDropped(FamilyAdapter):
    def project_out(self, attention: Any, output: Tensor) -> Tensor:
        return F.linear(output, attention.o_proj.weight)


class _OtherMask(FamilyAdapter):
    def attend(
        self,
        attention: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        **kwargs: Any,
    ) -> Tensor:
        mask = self.changed(mask, query.shape[2], key.shape[2])
        return super().attend(attention, query, key, value, mask, **kwargs)

    def changed(self, mask: Tensor | None, tokens: int, length: int) -> Tensor | None:
        raise NotImplementedError


@caught_by("test_parts_compose_to_the_models_own_layer")
class MaskIgnored(_OtherMask):
    def changed(self, mask: Tensor | None, tokens: int, length: int) -> Tensor:
        return torch.ones(1, 1, tokens, length, dtype=torch.bool).tril(length - tokens)


@caught_by("test_empty_memory_equals_the_plain_model")
class FutureSeenInTurns(_OtherMask):
    """Causal as long as the window begins with these tokens."""

    def changed(self, mask: Tensor | None, tokens: int, length: int) -> Tensor | None:
        return mask if tokens in (1, length) else torch.ones(1, 1, tokens, length) > 0


@caught_by("test_parts_compose_to_the_models_own_layer")
class HeadsNotBesideEachOther(FamilyAdapter):
    def attend(
        self,
        attention: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        **kwargs: Any,
    ) -> Tensor:
        output = super().attend(attention, query, key, value, mask, **kwargs)
        heads: Tensor = output.unflatten(2, (query.shape[1], -1))
        return heads.transpose(1, 2).reshape(output.shape)


@caught_by("test_half_precision_stays_half_precision")
class AlwaysFloat32(FamilyAdapter):
    def project(self, attention: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = super().project(attention, hidden_states)
        return query, key.float(), value


@caught_by("test_gradients_are_the_models_own")
class NoGradient(FamilyAdapter):
    def project(self, attention: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = super().project(attention, hidden_states)
        return query, key.detach(), value


@caught_by("test_adapters_have_no_state")
class RemembersTheFirstModel(FamilyAdapter):
    first: Any = None

    def flat(self, attention: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.first = self.first or {}
        kept = self.first.setdefault(attention.layer_idx, attention)
        return super().flat(kept, hidden_states)


@caught_by("test_detaching_leaves_no_trace")
class LeavesAnAttribute(FamilyAdapter):
    def project(self, attention: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attention.last_hidden_states = hidden_states
        return super().project(attention, hidden_states)


@caught_by("test_detaching_leaves_no_trace")
class LeavesAHook(FamilyAdapter):
    def decoder(self, model: Any) -> nn.Module:
        decoder = super().decoder(model)
        decoder.register_forward_hook(lambda module, args, output: None)
        return decoder


@caught_by("test_a_memory_adds_nothing_to_the_state_dict")
class LeavesABuffer(FamilyAdapter):
    def at_first_position(self, key: Tensor, decoder: Any) -> Tensor:
        decoder.register_buffer("last_key", key)
        return super().at_first_position(key, decoder)


@caught_by("test_remembered_keys_stand_at_the_first_position")
class FirstPositionInTurns(FamilyAdapter):
    """Right for short windows only."""

    def at_first_position(self, key: Tensor, decoder: Any) -> Tensor:
        key = super().at_first_position(key, decoder)
        return key if key.shape[2] < 16 else key.flip(2)


@caught_by("test_a_deep_copy_is_a_plain_model")
class WeightsTurnedWhenTakenApart(FamilyAdapter):
    """Changes the model it was given: a copy is changed twice."""

    def attentions(self, decoder: Any) -> list[nn.Module]:
        decoder.norm.weight.data.mul_(1.01)
        return super().attentions(decoder)
