"""Chooses the layers of a model that get memory, and keeps the proposed ones on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from fotmem.adapter import Adapter
from fotmem.arguments import checked_integer
from fotmem.errors import LayerError, OptionError, UnsupportedError
from fotmem.files import cache_folder, write_text
from fotmem.models.model_parts import ModelParts
from fotmem.models.unsupported import unsupported_attention


class LayerScores(NamedTuple):
    """The scores that `find_memory_layers` measures, and the layers that it proposes."""

    scores: list[float]
    """Per layer: mean weight that its query heads give to the token to be copied, 0 to 1."""
    memory_layers: list[int]
    """Proposed memory layers, ascending."""


def memory_layers(parts: ModelParts, layers: Iterable[int] | None) -> list[int]:
    """Return the layers that get memory; None: those of the model's config, else those proposed.

    Raises
    ------
    LayerError
        No layers are known, or one does not exist.
    """
    if layers is None:
        layers = getattr(parts.decoder.config, "mem_layers", None)
    if layers is None and (proposal := stored_proposal(parts)) is not None:
        layers = proposal.memory_layers
    return _checked_layers(layers, len(parts.attentions))


def layer_adapters(parts: ModelParts, layers: Iterable[int]) -> dict[int, Adapter]:
    """Return the adapter of each of these layers.

    Raises
    ------
    UnsupportedError
        A layer cannot have memory.
    """
    adapters = {}
    for layer in layers:
        attention = parts.attentions[layer]
        if reason := unsupported_attention(attention):
            everywhere = all(map(unsupported_attention, parts.attentions))
            raise UnsupportedError(
                f"{reason} in {'every layer' if everywhere else f'layer {layer}'}",
                "no layer of this model can have memory"
                if everywhere
                else "attach a memory to layers without it, layers=[...]",
            )
        adapters[layer] = parts.adapter.for_layer(attention)
    return adapters


def refused_layers(parts: ModelParts) -> dict[int, UnsupportedError]:
    """Return the layers that cannot have memory, each with the reason."""
    refused = {}
    for layer in range(len(parts.attentions)):
        try:
            layer_adapters(parts, [layer])
        except UnsupportedError as error:
            refused[layer] = error
    return refused


def store_proposal(parts: ModelParts, scores: LayerScores) -> Path:
    """Write the scores of a model to a file, where `attach` finds its layers; return the file."""
    file = _file(parts)
    write_text(file, json.dumps(scores._asdict()) + "\n")
    return file


def stored_proposal(parts: ModelParts) -> LayerScores | None:
    """Return what `store_proposal` wrote for a model, if anything."""
    try:
        found = LayerScores(**json.loads(_file(parts).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # no file, or damaged: it can be measured again
        return None
    return found if len(found.scores) == len(parts.attentions) else None


def _file(parts: ModelParts) -> Path:
    """Name a file after a model: its architecture, and a sample of every layer's attention."""
    digest = hashlib.sha256(type(parts.model).__name__.encode())
    for attention in parts.attentions:
        for name, weight in attention.named_parameters():
            known = weight.device.type != "meta"  # accelerate's offloading
            sample = weight.detach().flatten()[:64].float().tolist() if known else []
            digest.update(f"{name} {list(weight.shape)} {sample}".encode())
    return cache_folder("layers") / f"{digest.hexdigest()[:24]}.json"


def _checked_layers(layers: Iterable[int] | None, num_layers: int) -> list[int]:
    if layers is None:
        raise LayerError(
            "no memory layers are known for this model: its config has no mem_layers, and "
            "`fotmem layers MODEL` has not been run for it; run that, or pass layers=[17, 18, ...]"
        )
    try:
        chosen = sorted(checked_integer("each of layers", layer) for layer in layers)
    except (TypeError, OptionError) as error:
        raise LayerError(f"layers must be integers such as [17, 18], got {layers!r}") from error
    if not chosen:
        raise LayerError("layers must name at least one memory layer, got none")
    for layer in chosen:
        if not 0 <= layer < num_layers:
            raise LayerError(f"layers must be from 0 to {num_layers - 1}, got {layer}")
    if len(set(chosen)) < len(chosen):
        raise LayerError(f"layers must name each memory layer once, got {chosen}")
    return chosen
