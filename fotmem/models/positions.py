"""Encodes the positions of a window, and at which distance it sees memory."""

from typing import Any

import torch
from torch import Tensor, nn

from fotmem.adapter import Adapter


def rotated(
    adapter: Adapter,
    decoder: nn.Module,
    query: Tensor,
    key: Tensor,
    position_embeddings: Any,
    distance: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotate a window's queries and keys, and its queries once more for memory.

    Parameters
    ----------
    adapter : Adapter
        Of the layer.
    decoder : Module
    query, key : Tensor
        Shape ``[B, H * G, T, D]`` and ``[B, H, T, D]``, from `Adapter.project`.
    position_embeddings : object
        As the decoder computed them for the window.
    distance : int
        How many positions before each token memory stands; 0: at the window's first position.

    Returns
    -------
    query, memory_query, key : Tensor
    """
    own, rotated_key = adapter.rotate(query, key, position_embeddings)
    if not distance:
        return own, own, rotated_key
    positions = torch.full((1, query.shape[2]), distance, device=query.device)
    there = adapter.embeddings_at(decoder, query, positions)
    memory_query, _ = adapter.rotate(query, key, there)
    return own, memory_query, rotated_key
