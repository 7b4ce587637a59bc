"""Mistakes in encoding positions."""

from typing import Any

import torch
from torch import Tensor

from fotmem.adapter import Adapter, RotaryAdapter
from tests.broken_adapters.caught import caught_by
from tests.families import ROPE, YARN_IN_FULL_LAYERS


@caught_by("test_rotated_keys_are_the_models_own")
class KeysNotRotated(RotaryAdapter):
    def rotate(self, query: Tensor, key: Tensor, position_embeddings: Any) -> tuple[Tensor, Tensor]:
        return super().rotate(query, key, position_embeddings)[0], key


@caught_by("test_rotated_keys_are_the_models_own")
class KeysRotatedTwice(RotaryAdapter):
    def rotate(self, query: Tensor, key: Tensor, position_embeddings: Any) -> tuple[Tensor, Tensor]:
        query, once = super().rotate(query, key, position_embeddings)
        return query, super().rotate(query, once, position_embeddings)[1]


@caught_by("test_rotated_keys_are_the_models_own")
class PositionsOfTheFirstRow(RotaryAdapter):
    def rotate(self, query: Tensor, key: Tensor, position_embeddings: Any) -> tuple[Tensor, Tensor]:
        cos, sin = position_embeddings
        return super().rotate(query, key, (cos[:1], sin[:1]))


@caught_by("test_rotated_keys_are_the_models_own", "cohere")
class HalvesForNeighbours(RotaryAdapter):
    """LLaMA's RoPE in a family that rotates neighbours."""

    def rotate(self, query: Tensor, key: Tensor, position_embeddings: Any) -> tuple[Tensor, Tensor]:
        cos, sin = (part[:, None, :, ::2].repeat(1, 1, 1, 2) for part in position_embeddings)

        def turned(part: Tensor) -> Tensor:
            one, two = part.chunk(2, -1)
            whole: Tensor = part * cos + torch.cat([-two, one], -1) * sin
            return whole

        return turned(query), turned(key)


@caught_by("test_rotated_keys_are_the_models_own", "smollm3")
class RotatesInEveryLayer(RotaryAdapter):
    """Takes no layer for one without rotary embeddings."""


@caught_by("test_attention_is_one_of_scaled_products")
class QueriesNotRotated(RotaryAdapter):
    def rotate(self, query: Tensor, key: Tensor, position_embeddings: Any) -> tuple[Tensor, Tensor]:
        return query, super().rotate(query, key, position_embeddings)[1]


@caught_by("test_what_comes_in_is_not_changed")
class RotatedInPlace(RotaryAdapter):
    def rotate(self, query: Tensor, key: Tensor, position_embeddings: Any) -> tuple[Tensor, Tensor]:
        rotated = super().rotate(query, key, position_embeddings)
        return query.copy_(rotated[0]), key.copy_(rotated[1])


@caught_by("test_rotation_at_any_position")
class OnePositionFurther(RotaryAdapter):
    def embeddings_at(self, decoder: Any, query: Tensor, positions: Tensor) -> Any:
        return super().embeddings_at(decoder, query, positions + 1)


@caught_by("test_rotation_at_any_position", "gemma3", rope_parameters=YARN_IN_FULL_LAYERS)
class OneRotationForEveryLayer(RotaryAdapter):
    def embeddings_at(self, decoder: Any, query: Tensor, positions: Tensor) -> Any:
        return decoder.rotary_emb(query, positions, "sliding_attention")


@caught_by("test_keys_at_the_first_position")
class FirstPositionIsTheSecond(RotaryAdapter):
    def at_first_position(self, key: Tensor, decoder: Any) -> Tensor:
        places = torch.ones(1, key.shape[2], dtype=torch.long)
        return self.rotate(key, key, decoder.rotary_emb(key, position_ids=places))[1]


@caught_by("test_keys_at_the_first_position", "llama", rope_parameters=ROPE["yarn"])
class AttentionFactorLeftOut(RotaryAdapter):
    def at_first_position(self, key: Tensor, decoder: Any) -> Tensor:
        return key


@caught_by("test_keys_move_from_the_first_position", "llama", rope_parameters=ROPE["yarn"])
class AttentionFactorTwice(RotaryAdapter):
    def at_positions(self, key: Tensor, decoder: Any, positions: Tensor) -> Tensor:
        return Adapter.at_positions(self, key, decoder, positions)


@caught_by("test_keys_at_the_first_position", "phi3")
class FactorOnWholeHeads(RotaryAdapter):
    """Only a part of each head is rotated, and scaled."""

    projections = ("qkv_proj",)

    def at_first_position(self, key: Tensor, decoder: Any) -> Tensor:
        scaled: Tensor = key * decoder.rotary_emb.attention_scaling
        return scaled


@caught_by("test_keys_at_the_first_position")
class KeysHeldAtTheirPositions(RotaryAdapter):
    def at_first_position(self, key: Tensor, decoder: Any) -> Tensor:
        places = torch.arange(key.shape[2])[None]
        return self.rotate(key, key, decoder.rotary_emb(key, position_ids=places))[1]


@caught_by("test_each_layer_has_its_own_positions", "gemma3")
class OneFactorForEveryLayer(RotaryAdapter):
    """Right as long as all factors are 1."""

    def at_first_position(self, key: Tensor, decoder: Any) -> Tensor:
        return key


@caught_by("test_each_layer_has_its_own_positions", "gemma3")
class FactorOfFullLayers(RotaryAdapter):
    def at_first_position(self, key: Tensor, decoder: Any) -> Tensor:
        scaled: Tensor = key * decoder.rotary_emb.full_attention_attention_scaling
        return scaled


@caught_by("test_remembered_keys_stand_at_the_first_position")
class FirstPositionInTurns(RotaryAdapter):
    """Wrong for the last window that the test reads, which is shorter."""

    def at_first_position(self, key: Tensor, decoder: Any) -> Tensor:
        key = super().at_first_position(key, decoder)
        return key.flip(2) if key.shape[2] == 8 else key
