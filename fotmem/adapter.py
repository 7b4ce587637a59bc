"""The interface of an adapter: how one model family's attention is taken apart."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn


class Adapter(ABC):
    """Tells fotmem where a model family keeps its parts, so that it can put memory layers in.

    fotmem splits long input into windows, keeps the cache, asks the stores and merges what they
    answer; an adapter only projects, rotates and calls the model's own attention. It has no
    state: every method gets the module it is about. Where layers differ, `for_layer` tells how.
    """

    def for_layer(self, attention: nn.Module) -> "Adapter":
        """Return the adapter of one layer, which serves no other: this one, where all are alike.

        Where layers encode positions in different ways, `rotate` and `at_first_position` cannot
        tell from their arguments in which they are: return another adapter for each way.

        Raises
        ------
        UnsupportedError
            The layer cannot have memory; say why, and what can be done.
        """
        return self

    @abstractmethod
    def decoder(self, model: nn.Module) -> nn.Module:
        """Return the module that runs the layers.

        It is called with ``input_ids`` or ``inputs_embeds``, ``attention_mask``,
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

        Before positions are encoded. Query heads ``h * G`` to ``h * G + G - 1`` share head ``h``.
        """

    @abstractmethod
    def rotate(self, query: Tensor, key: Tensor, position_embeddings: Any) -> tuple[Tensor, Tensor]:
        """Encode the positions that the decoder computed for this window."""

    @abstractmethod
    def at_first_position(self, key: Tensor, decoder: nn.Module) -> Tensor:
        """Encode keys ``[B, H, T, D]`` as if each stood at the first position of a window."""

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
