"""Saves a trained model: a whole checkpoint, or a LoRA adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fotmem.crossbatch import Crossbatch
from fotmem.models.packaged import lasting_name
from fotmem.models.tuned_adapter import TunedAdapter, configure, write_tuned_adapter


def tuned_adapter(model: Any, crossbatch: Crossbatch, recent: int) -> TunedAdapter:
    """Say how memory is attached with what was trained.

    It has `recent` tokens where it was trained for them.
    """
    return TunedAdapter(
        base=lasting_name(plain(model).name_or_path),
        mem_layers=list(crossbatch.layers),
        mem_distance=crossbatch.distance,
        mem_recent=recent if crossbatch.recent else 0,
        mem_decay=crossbatch.decay,
        **_temperatures(crossbatch),
    )


def save(model: Any, folder: Path, adapted: TunedAdapter) -> None:
    """Save a tuned model: a `peft.PeftModel` as an adapter, any other model whole."""
    configure(plain(model), adapted)
    if plain(model) is model:
        model.save_pretrained(folder)
        return
    config = model.peft_config["default"]
    config.base_model_name_or_path = adapted.base
    model.save_pretrained(folder, save_embedding_layers=False)
    write_tuned_adapter(folder, adapted)


def plain(model: Any) -> Any:
    """Return the model itself, without what peft put around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _temperatures(crossbatch: Crossbatch) -> dict[str, Any]:
    """Return those that heads have learned, or else the one of all."""
    if not crossbatch.log_temperatures.requires_grad:
        return {"mem_temperature": crossbatch.temperature}
    learned = crossbatch.temperatures.items()
    by_layer = {layer: [round(number, 4) for number in numbers] for layer, numbers in learned}
    return {"mem_head_temperatures": by_layer}
