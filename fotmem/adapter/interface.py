"""The interface of an adapter: how the attention of one model family is taken apart."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from fotmem.errors import UnsupportedError

__all__ = ["Adapter"]


class Adapter(ABC):
    """Takes the attention of one model family apart, so that fotmem can give it a memory.

    fotmem splits long input into windows, keeps the cache, asks the stores and merges their
    answers. An adapter projects, encodes positions and calls the model's own attention.

    fotmem calls `decoder` and `attentions` once, then `for_layer` for each memory layer, and
    all other methods on what `for_layer` returned. An adapter keeps nothing between calls.
    """

    def for_layer(self, attention: nn.Module) -> "Adapter":
        """Return the adapter for one layer; by default this one, for all layers.

        `rotate` and `at_first_position` do not get the attention module. Where layers encode
        positions in different ways, return an adapter that knows the way of this layer.

        Raises
        ------
        UnsupportedError
            This layer cannot have memory. Say why, and what the user can do.
        """
        return self

    @abstractmethod
    def decoder(self, model: nn.Module) -> nn.Module:
        """Return the module that runs the layers.

        fotmem calls it with ``input_ids`` or ``inputs_embeds``, ``attention_mask``,
        ``position_ids``, ``use_cache`` and ``cache`` (or ``past_key_values``).
        """

    @abstractmethod
    def attentions(self, decoder: nn.Module) -> list[nn.Module]:
        """Return the attention module of every layer, in order."""

    @abstractmethod
    def geometry(self, attention: nn.Module) -> tuple[int, int, float]:
        """Return key/value heads ``H``, head dimension ``D`` and the factor of the scores."""

    @abstractmethod
    def project(self, attention: nn.Module, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project ``[B, T, hidden]`` to query ``[B, H * G, T, D]``, key and value ``[B, H, T, D]``.

        Positions are not encoded yet; all else is done. Query heads ``h * G`` to
        ``h * G + G - 1`` share key/value head ``h``.
        """

    @abstractmethod
    def rotate(self, query: Tensor, key: Tensor, position_embeddings: Any) -> tuple[Tensor, Tensor]:
        """Encode the positions that the decoder computed for this window."""

    @abstractmethod
    def at_first_position(self, key: Tensor, decoder: nn.Module) -> Tensor:
        """Encode keys ``[B, H, T, D]`` as if each stood at the first position of a window."""

    def first_position_embeddings(self, position_embeddings: Any) -> Any:
        """Return what the decoder computes for the first position, as often as it is given here.

        fotmem passes it to the layer's own attention, to check `at_first_position`. By default,
        `position_embeddings` are ``(cos, sin)``, complex numbers, or None. Override it if your
        decoder passes something else.
        """
        if isinstance(position_embeddings, Tensor):
            return position_embeddings.abs().to(position_embeddings.dtype)
        if not isinstance(position_embeddings, tuple) or len(position_embeddings) != 2:
            return position_embeddings
        cos, sin = position_embeddings
        return torch.hypot(cos.float(), sin.float()).to(cos.dtype), torch.zeros_like(sin)

    def embeddings_at(self, decoder: nn.Module, query: Tensor, positions: Tensor) -> Any:
        """Return what `rotate` takes, if the tokens of ``query [B, H * G, T, D]`` stood there.

        ``positions`` are int64 ``[B or 1, T]``, and may be negative. Memory with a ``distance`` or
        with ``recent`` tokens needs it.

        Raises
        ------
        UnsupportedError
            This adapter does not say.
        """
        raise UnsupportedError(
            f"a distance other than 0, or recent tokens, with {type(self).__name__}",
            "pass distance=0 and recent=0; in the adapter, override embeddings_at()",
        )

    def at_positions(self, key: Tensor, decoder: nn.Module, positions: Tensor) -> Tensor:
        """Encode other positions in keys that `at_first_position` returned.

        ``positions`` are int64 ``[B or 1, T]``; before the window they are negative. By default
        `rotate` does it, with `embeddings_at`; override it where `at_first_position` changes keys.
        """
        return self.rotate(key, key, self.embeddings_at(decoder, key, positions))[1]

    @abstractmethod
    def attend(
        self,
        attention: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        **kwargs: Any,
    ) -> Tensor:
        """Call the model's own local attention; ``[B, T, H * G * D]``, not yet projected out."""

    @abstractmethod
    def project_out(self, attention: nn.Module, output: Tensor) -> Tensor:
        """Project ``[B, T, H * G * D]`` back to ``[B, T, hidden]``."""
