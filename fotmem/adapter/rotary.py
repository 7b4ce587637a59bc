"""A base for adapters of decoders that are built like LLaMA."""

import copy
import inspect
from itertools import chain
from typing import Any, Self

import torch
from torch import Tensor, nn

from fotmem.adapter.interface import Adapter
from fotmem.adapter.lookup import family_function, rope_attribute
from fotmem.errors import UnsupportedError


class RotaryAdapter(Adapter):
    """Adapter for decoders with rotary embeddings (Su et al. 2021, arXiv:2104.09864).

    It reads everything from transformers' own modules: projections, biases, norms on queries and
    keys, grouped queries, the scale, the family's rotation, attention factors by type of layer.
    Many families need nothing else. Where a family differs, derive from this class and override the
    method or attribute that differs.

    Examples
    --------
    A family whose output projection is called `dense`, and in which some layers do not rotate:

    >>> class MyAdapter(RotaryAdapter):
    ...     output_projection = "dense"
    ...
    ...     @property
    ...     def rotates(self):
    ...         return self.attention.use_rope
    """

    projections: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    """Names of the projections: of query, key and value, or one name for all three."""
    norms: tuple[str, str] = ("q_norm", "k_norm")
    """Names of the norms of query and key, where a layer has them: of each head or of all."""
    output_projection: str = "o_proj"
    """Name of the output projection."""
    other_parts: tuple[str, ...] = ()
    """Names of what else in an attention module has weights, and is used by a subclass."""
    attention: Any = None
    """The attention module of this adapter's layer, set by `for_layer`."""

    def for_layer(self, attention: nn.Module) -> Self:
        """Return the adapter of one layer, which has its attention module as `attention`.

        Raises
        ------
        UnsupportedError
            The attention module has weights that this adapter does not use.
        """
        used = {*self.projections, *self.norms, self.output_projection, *self.other_parts}
        used.add("attention_dropout")
        for name, _ in chain(attention.named_children(), attention.named_parameters(recurse=False)):
            if name not in used:
                raise UnsupportedError(
                    f"memory in a layer whose attention has {name!r}, which "
                    f"{type(self).__name__} does not use,",
                    "choose other layers; in an adapter, use it and name it in other_parts",
                )
        own = copy.copy(self)
        own.attention = attention
        return own

    @property
    def rotates(self) -> bool:
        """Whether this layer encodes positions; override it where some layers do not."""
        return True

    def attention_factor(self, decoder: Any) -> float:
        """Return what the rotary embedding of this layer scales queries and keys by (YaRN).

        By default its ``attention_scaling``, which it may have by type of layer; 1 without any.

        Raises
        ------
        UnsupportedError
            It has one for other types of layers, but not for this one.
        """
        try:
            factor: float = rope_attribute(decoder, self.attention, "attention_scaling")
        except UnsupportedError:
            names = dir(getattr(decoder, "rotary_emb", None))
            if any(name.endswith("attention_scaling") for name in names):
                raise
            return 1.0
        return factor

    def decoder(self, model: Any) -> nn.Module:
        """Return ``model.model``."""
        decoder: nn.Module = model.model
        return decoder

    def attentions(self, decoder: Any) -> list[nn.Module]:
        """Return the ``self_attn`` of each of ``decoder.layers``."""
        return [layer.self_attn for layer in decoder.layers]

    def geometry(self, attention: Any) -> tuple[int, int, float]:
        """Return the config's key/value heads, and the module's ``head_dim`` and ``scaling``."""
        return attention.config.num_key_value_heads, attention.head_dim, attention.scaling

    def project_heads(self, attention: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project with `projections` and split into heads: as `project`, without norms."""
        parts = [getattr(attention, name)(hidden_states) for name in self.projections]
        if len(parts) == 1:
            size = attention.config.num_key_value_heads * attention.head_dim
            parts = parts[0].split([parts[0].shape[-1] - 2 * size, size, size], -1)
        heads = (*hidden_states.shape[:-1], -1, attention.head_dim)
        query, key, value = (part.view(heads).transpose(1, 2) for part in parts)
        return query, key, value

    def project(self, attention: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project with `projections`, then apply `norms`."""
        query, key, value = self.project_heads(attention, hidden_states)
        query_norm, key_norm = (getattr(attention, name, None) for name in self.norms)
        return _normalised(query, query_norm), _normalised(key, key_norm), value

    def rotate(self, query: Tensor, key: Tensor, position_embeddings: Any) -> tuple[Tensor, Tensor]:
        """Apply the family's ``apply_rotary_pos_emb`` to the dimensions that it is for."""
        if not self.rotates:
            return query, key
        cos, sin = position_embeddings
        size = cos.shape[-1]
        function = family_function(self.attention, "apply_rotary_pos_emb")
        rotated: tuple[Tensor, Tensor] = function(query[..., :size], key[..., :size], cos, sin)
        return _with_rest(rotated[0], query), _with_rest(rotated[1], key)

    def at_first_position(self, key: Tensor, decoder: Any) -> Tensor:
        """Multiply by `attention_factor` what would be rotated; at position 0 nothing is."""
        return self.scaled(key, decoder, self.attention_factor(decoder))

    def at_positions(self, key: Tensor, decoder: Any, positions: Tensor) -> Tensor:
        """Rotate keys; the `attention_factor` that they have is not applied once more."""
        plain = self.scaled(key, decoder, 1 / self.attention_factor(decoder))
        return super().at_positions(plain, decoder, positions)

    def scaled(self, key: Tensor, decoder: Any, factor: float) -> Tensor:
        """Multiply the dimensions of keys that would be rotated."""
        if factor == 1.0 or not self.rotates:
            return key
        size = 2 * rope_attribute(decoder, self.attention, "inv_freq").shape[-1]
        return _with_rest(key[..., :size] * factor, key)

    def embeddings_at(self, decoder: Any, query: Tensor, positions: Tensor) -> Any:
        """Call the decoder's ``rotary_emb``, with the type of this layer if that takes one."""
        rope, types = decoder.rotary_emb, getattr(self.attention.config, "layer_types", None)
        if types and "layer_type" in inspect.signature(rope.forward).parameters:
            return rope(query, positions, types[self.attention.layer_idx])
        return rope(query, positions)

    def dropout(self, attention: Any) -> float:
        """Return the rate of dropout in attention: ``attention_dropout``, a number or a module."""
        given = attention.attention_dropout
        rate: float = given.p if isinstance(given, nn.Dropout) else given
        return rate

    def attend(
        self,
        attention: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        **kwargs: Any,
    ) -> Tensor:
        """Call the attention implementation that the config names."""
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS  # slow to import

        function = ALL_ATTENTION_FUNCTIONS.get_interface(
            attention.config._attn_implementation,
            family_function(attention, "eager_attention_forward"),
        )
        options = {
            "dropout": self.dropout(attention) if attention.training else 0.0,
            "scaling": self.geometry(attention)[2],
        }
        output, _ = function(attention, query, key, value, mask, **options, **kwargs)
        flat: Tensor = output.flatten(2)
        return flat

    def project_out(self, attention: Any, output: Tensor) -> Tensor:
        """Project with `output_projection`."""
        projected: Tensor = getattr(attention, self.output_projection)(output.contiguous())
        return projected


def _normalised(states: Tensor, norm: Any) -> Tensor:
    """Apply a norm, if there is one, to each head of ``[B, heads, T, D]``, or to all heads."""
    if norm is None:
        return states
    if norm.weight.shape[-1] == states.shape[-1]:
        normalised: Tensor = norm(states.transpose(1, 2)).transpose(1, 2)
        return normalised
    joined = norm(states.transpose(1, 2).flatten(2))  # [B, T, heads * D]
    heads: Tensor = joined.unflatten(-1, (-1, states.shape[-1]))
    return heads.transpose(1, 2)


def _with_rest(part: Tensor, whole: Tensor) -> Tensor:
    """Append the dimensions of `whole` that `part` lacks: some families rotate a part of each."""
    size = part.shape[-1]
    return part if size == whole.shape[-1] else torch.cat([part, whole[..., size:]], -1)
