"""Mistakes in attending and in projecting out."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fotmem.adapter import RotaryAdapter
from tests.broken_adapters.caught import caught_by


def swapped(heads: Tensor, one: int, two: int) -> Tensor:
    """Order heads ``[B, H * G, T, D]`` from ``[one, two]`` to ``[two, one]``."""
    parts: Tensor = heads.unflatten(1, (one, two))
    return parts.transpose(1, 2).flatten(1, 2)


@caught_by("test_attention_is_one_of_scaled_products")
class NoScale(RotaryAdapter):
    def geometry(self, attention: Any) -> tuple[int, int, float]:
        return *super().geometry(attention)[:2], 1.0


@caught_by("test_attention_is_one_of_scaled_products", "granite")
class ScaleGuessed(RotaryAdapter):
    def geometry(self, attention: Any) -> tuple[int, int, float]:
        heads, head_dim, _ = super().geometry(attention)
        return heads, head_dim, head_dim**-0.5


@caught_by("test_attention_is_one_of_scaled_products")
class QueryNormDropped(RotaryAdapter):
    def project(self, attention: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        _, key, value = super().project(attention, hidden_states)
        return self.project_heads(attention, hidden_states)[0], key, value


@caught_by("test_grouped_queries_share_the_right_head")
class HeadsInterleaved(RotaryAdapter):
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


@caught_by("test_parts_compose_to_the_models_own_layer")
class ProjectOutSkipped(RotaryAdapter):
    def project_out(self, attention: Any, output: Tensor) -> Tensor:
        return output[..., : attention.config.hidden_size]


@caught_by("test_parts_compose_to_the_models_own_layer", "starcoder2")
class OutputBiasDropped(RotaryAdapter):
    def project_out(self, attention: Any, output: Tensor) -> Tensor:
        return F.linear(output, attention.o_proj.weight)


@caught_by("test_parts_compose_to_the_models_own_layer", "bitnet")
class OutputNormDropped(RotaryAdapter):
    other_parts = ("attn_sub_norm",)


class _OtherMask(RotaryAdapter):
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
class HeadsNotBesideEachOther(RotaryAdapter):
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
class AlwaysFloat32(RotaryAdapter):
    def project(self, attention: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = super().project(attention, hidden_states)
        return query, key.float(), value


@caught_by("test_gradients_are_the_models_own")
class NoGradient(RotaryAdapter):
    def project(self, attention: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = super().project(attention, hidden_states)
        return query, key.detach(), value


@caught_by("test_dropout_in_training_is_the_models_own")
class DropoutLeftOut(RotaryAdapter):
    """Trains another model than the family's own code does."""

    def attend(
        self,
        attention: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        **kwargs: Any,
    ) -> Tensor:
        attention.eval()
        output = super().attend(attention, query, key, value, mask, **kwargs)
        attention.train()
        return output


@caught_by("test_dropout_in_training_is_the_models_own", "starcoder2")
class DropoutOfOutputLeftOut(RotaryAdapter):
    """The family has a second dropout, after the output projection."""
