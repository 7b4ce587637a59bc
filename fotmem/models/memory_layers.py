"""Keeps which layers were proposed as memory layers, per model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fotmem.caches import cache_folder
from fotmem.files import write_text

if TYPE_CHECKING:
    from fotmem.models.model_parts import ModelParts


class LayerScores(NamedTuple):
    """What `find_memory_layers` measured."""

    scores: list[float]
    """Per layer: mean weight that its query heads give to what is to be copied, 0 to 1."""
    memory_layers: list[int]
    """Proposed memory layers, ascending."""


def store_proposal(parts: ModelParts, scores: LayerScores) -> Path:
    """Keep scores for a model, so that `attach` finds its layers; return the file."""
    file = _file(parts)
    write_text(file, json.dumps(scores._asdict()) + "\n")
    return file


def stored_proposal(parts: ModelParts) -> LayerScores | None:
    """Return what `store_proposal` kept for a model, if anything."""
    try:
        found = LayerScores(**json.loads(_file(parts).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # none, or damaged: it can be measured again
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
