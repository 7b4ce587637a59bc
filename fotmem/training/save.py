"""Saves a trained model: a whole checkpoint, or a LoRA adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fotmem.crossbatch import Crossbatch
from fotmem.models.tuned_adapter import TunedAdapter, configure, write_tuned_adapter


def save(model: Any, folder: Path, crossbatch: Crossbatch, recent: int) -> None:
    """Save a tuned model: a `peft.PeftModel` as an adapter, any other model whole.

    It has `recent` tokens where it was trained for them.
    """
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    adapted = TunedAdapter(
        base=plain.name_or_path,
        mem_layers=list(crossbatch.layers),
        mem_distance=crossbatch.distance,
        mem_recent=recent if crossbatch.recent else 0,
        mem_decay=crossbatch.decay,
        **_temperatures(crossbatch),
    )
    configure(plain, adapted)
    if plain is model:
        model.save_pretrained(folder)
        return
    config = model.peft_config["default"]
    config.base_model_name_or_path = adapted.base
    model.save_pretrained(folder, save_embedding_layers=False)
    write_tuned_adapter(folder, adapted)


def _temperatures(crossbatch: Crossbatch) -> dict[str, Any]:
    """Return those that heads have learned, or else the one of all."""
    if not crossbatch.log_temperatures.requires_grad:
        return {"mem_temperature": crossbatch.temperature}
    learned = crossbatch.temperatures.items()
    by_layer = {layer: [round(number, 4) for number in numbers] for layer, numbers in learned}
    return {"mem_head_temperatures": by_layer}
