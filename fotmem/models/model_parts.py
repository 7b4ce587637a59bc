"""Takes a model apart, and knows which of its layers get memory."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple

from torch import nn

from fotmem.adapter import Adapter
from fotmem.arguments import checked_distance, checked_integer
from fotmem.errors import AttachError, LayerError, OptionError, UnsupportedError
from fotmem.memory.inputs import refuse_unsupported
from fotmem.models.memory_layers import stored_proposal
from fotmem.models.replace_forward import attached
from fotmem.plugin.registry import registry, unknown_model

SOFT_CAPS = ("attn_logit_softcapping", "softcap", "logit_softcap")
"""What attention modules of transformers call the cap of their scores."""


class ModelParts(NamedTuple):
    """A model that something can be attached to, taken apart."""

    model: Any
    """The transformers model itself, whatever it was wrapped in."""
    adapter: Adapter
    decoder: Any
    attentions: list[nn.Module]
    """The attention module of every layer."""


def model_parts(model: nn.Module) -> ModelParts:
    """Take a model apart.

    Raises
    ------
    ModelError, AttachError, UnsupportedError
        No adapter knows it; it has a memory or is in training already; it cannot be attached to.
    """
    plain = plain_model(model)
    adapter = _find_adapter(plain)
    decoder: Any = adapter.decoder(plain)
    if attached(decoder) is not None:
        raise AttachError("this model has a memory already; call its detach() first")
    refuse_unsupported(decoder.config, None, {})
    _refuse_empty(plain)
    return ModelParts(plain, adapter, decoder, adapter.attentions(decoder))


def _refuse_empty(model: nn.Module) -> None:
    """Refuse a model without weights; accelerate fetches those that wait elsewhere."""
    for name, module in model.named_modules():
        waiting = any(weight.is_meta for weight in module.parameters(recurse=False))
        if waiting and not hasattr(module, "_hf_hook"):
            raise UnsupportedError(
                f"a model without weights ({name} is on the meta device)",
                "load its weights first, such as by from_pretrained or to_empty",
            )


def memory_layers(parts: ModelParts, layers: Iterable[int] | None) -> list[int]:
    """Check which layers get memory; None: those of the model's config, else those proposed.

    Raises
    ------
    LayerError
        None are known, or one does not exist.
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
        if reason := _no_memory_layer(attention):
            raise UnsupportedError(
                f"{reason} in layer {layer}", "attach a memory to layers without it, layers=[...]"
            )
        adapters[layer] = parts.adapter.for_layer(attention)
    return adapters


def servable_layers(parts: ModelParts) -> list[int]:
    """Return the layers that can have memory."""
    served = []
    for layer in range(len(parts.attentions)):
        with suppress(UnsupportedError):
            layer_adapters(parts, [layer])
            served.append(layer)
    return served


def _no_memory_layer(attention: nn.Module) -> str:
    """Tell what an attention module has that one softmax over inner products has not."""
    if type(attention).__module__.startswith("peft."):
        return f"{type(attention).__name__}, PEFT's own attention,"
    for name in SOFT_CAPS:
        if isinstance(getattr(attention, name, None), float):
            return "attention with soft-capped scores"
    if getattr(attention, "sinks", None) is not None:
        return "attention with sinks"
    return ""


def refuse_changing_rope(config: Any, positions: int) -> None:
    """Refuse RoPE whose frequencies depend on how long the input is, up to so many positions.

    Raises
    ------
    UnsupportedError
        They do: what was remembered at one length would be looked at with the other.
    """
    parameters = getattr(config, "rope_parameters", None) or {}
    by_type = [each for each in parameters.values() if isinstance(each, dict)]
    for each in by_type or [parameters]:
        kind = each.get("rope_type")
        longest = each.get("original_max_position_embeddings", config.max_position_embeddings)
        if kind == "dynamic":
            raise UnsupportedError(
                "RoPE of type 'dynamic'",
                "take rope_parameters of type 'default': up to the model's "
                "max_position_embeddings it is the same, and windows are never longer",
            )
        if kind == "longrope" and positions > longest:
            raise UnsupportedError(
                f"RoPE of type 'longrope' beyond {longest} positions",
                f"choose window and distance of together at most {longest}",
            )


def memory_distance(config: Any, distance: int | None, window: int) -> int:
    """Check how far from a window memory stands; None: the config's ``mem_distance``, else 0.

    Raises
    ------
    OptionError
        It is negative, or so far that the model has too few positions.
    """
    if distance is None:
        distance = getattr(config, "mem_distance", 0)
    return checked_distance(distance, window, config.max_position_embeddings)


def plain_model(model: nn.Module) -> Any:
    """Unwrap what torch.compile and peft return; refuse what no adapter could know."""
    plain: Any = getattr(model, "_orig_mod", model)
    if hasattr(plain, "get_base_model"):
        plain = plain.get_base_model()
    if not isinstance(plain, nn.Module) or not hasattr(plain, "config"):
        raise unknown_model(type(model).__name__)
    _find_spec(plain)
    return plain


def _find_spec(model: nn.Module) -> Any:
    for cls in type(model).__mro__:  # the nearest class first
        for spec in registry().adapters.values():
            if cls.__name__ in spec.architectures:
                return spec
    raise unknown_model(type(model).__name__)


def _find_adapter(model: nn.Module) -> Adapter:
    spec = _find_spec(model)
    spec.require()
    adapter: Adapter = spec.factory()
    return adapter


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
