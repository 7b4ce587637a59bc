"""Takes a model apart: its adapter, its decoder and the attention module of every layer."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

from torch import nn

from fotmem.adapter import Adapter
from fotmem.errors import AttachError, ModelError
from fotmem.models.replace_forward import owner_of
from fotmem.models.unsupported import refuse_empty, refuse_unsupported
from fotmem.plugin.create import create_adapter
from fotmem.plugin.registry import available_adapters
from fotmem.plugin.specs import AdapterSpec


class ModelParts(NamedTuple):
    """The parts of a model that a memory can be attached to."""

    model: Any
    """The transformers model itself, without wrappers."""
    adapter: Adapter
    decoder: Any
    attentions: list[nn.Module]
    """The attention module of every layer."""


def model_parts(model: nn.Module) -> ModelParts:
    """Take a model apart.

    Raises
    ------
    ModelError, AttachError, UnsupportedError
        No adapter knows it; it has a memory or is in training already; it cannot have a memory.
    """
    plain = plain_model(model)
    adapter = _find_adapter(plain)
    decoder = decoder_of(plain)
    if owner_of(decoder) is not None:
        raise AttachError("this model has a memory already; call its detach() first")
    refuse_unsupported(decoder.config, None, {})
    refuse_empty(plain)
    return ModelParts(plain, adapter, decoder, adapter.attentions(decoder))


def decoder_of(model: nn.Module) -> Any:
    """Return the module of a model that runs its layers.

    Raises
    ------
    ModelError
        No adapter knows it.
    """
    plain = plain_model(model)
    return _find_adapter(plain).decoder(plain)


def plain_model(model: nn.Module) -> Any:
    """Unwrap what torch.compile and peft return; refuse what no adapter knows."""
    plain: Any = getattr(model, "_orig_mod", model)
    if hasattr(plain, "get_base_model"):
        plain = plain.get_base_model()
    if not isinstance(plain, nn.Module) or not hasattr(plain, "config"):
        raise unknown_model(type(model).__name__)
    _find_spec(plain)
    return plain


def unknown_model(culprit: str) -> ModelError:
    """Build the error for a model that no adapter knows; it names where families are listed."""
    return ModelError(
        f"no adapter knows {culprit}; `fotmem models` lists the families that can have memory, the "
        "page 'Adapt another model' of fotmem's documentation says which others can get one"
    )


def known_architecture(config: Any) -> str | None:
    """Return the class of causal language models of a config, if an adapter knows it."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING  # slow to import

    built: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), object)
    return built.__name__ if _spec_of(built) is not None else None


def cache_argument(module: type[nn.Module]) -> str:
    """Return the name of a module's argument for its cache, which transformers 5.24 renamed."""
    # A derived class may pass on all its arguments, unnamed.
    forwards = [vars(kind)["forward"] for kind in module.__mro__ if "forward" in vars(kind)]
    named = any("cache" in inspect.signature(forward).parameters for forward in forwards)
    return "cache" if named else "past_key_values"


def _spec_of(kind: type) -> AdapterSpec | None:
    for cls in kind.__mro__:  # the nearest class first
        for spec in available_adapters().values():
            if cls.__name__ in spec.architectures:
                return spec
    return None


def _find_spec(model: Any) -> AdapterSpec:
    kind = type(model)
    if (spec := _spec_of(kind)) is not None:
        return spec
    if (known := known_architecture(model.config)) is not None:
        raise ModelError(
            f"no adapter knows {kind.__name__}, but one knows {known}: load the model as "
            f"{known}, or by AutoModelForCausalLM"
        )
    raise unknown_model(kind.__name__)


def _find_adapter(model: nn.Module) -> Adapter:
    return create_adapter(_find_spec(model))
