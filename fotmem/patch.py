"""Puts other functions in place of a model's own, and puts everything back."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any, Protocol

from torch import nn

from fotmem.errors import UnsupportedError


class Attached(Protocol):
    """What has put its functions into a model."""

    decoder: nn.Module


REFUSED_METHODS = {
    "_get_candidate_generator": "assisted generation (or prompt lookup)",
    "init_continuous_batching": "continuous batching",
}
"""Where transformers' `generate` begins what cannot work, before any token is computed."""


def own_forward(module: nn.Module) -> Callable[..., Any]:
    """Return the function behind a module's forward, which takes the module first."""
    forward = getattr(module, _forward_name(module))
    function: Callable[..., Any] | None = getattr(forward, "__func__", None)
    return function or (lambda _, *args, **kwargs: forward(*args, **kwargs))


def attached(decoder: nn.Module) -> Attached | None:
    """Return what is attached to a decoder: a memory, or crossbatch training."""
    owner: Attached | None = getattr(own_forward(decoder), "fotmem_owner", None)
    # A deep copy of a model carries the functions, but they serve the original only.
    return owner if owner is not None and owner.decoder is decoder else None


def replace_forward(
    module: nn.Module, owner: Attached, function: Callable[..., Any]
) -> Callable[[], None]:
    """Put `function` in place of a module's forward; return what undoes it."""
    name, plain_forward = _forward_name(module), own_forward(module)
    before = vars(module).get(name)
    function.fotmem_owner = owner  # type: ignore[attr-defined]
    ours = MethodType(function, module)
    setattr(module, name, ours)

    def restore() -> None:
        for name in ("forward", "_old_forward"):  # accelerate's hooks may have come or gone since
            if vars(module).get(name) is not ours:
                continue
            if before is not None:
                setattr(module, name, before)
            elif name == "forward":
                delattr(module, name)
            else:
                setattr(module, name, MethodType(plain_forward, module))

    return restore


def refuse_methods(model: nn.Module) -> Callable[[], None]:
    """Let a model refuse by name what cannot work with memory; return what undoes it."""
    names = [name for name in REFUSED_METHODS if name not in vars(model) and hasattr(model, name)]
    for name in names:
        refusal = _refusal(model, REFUSED_METHODS[name], getattr(type(model), name))
        setattr(model, name, MethodType(refusal, model))

    def restore() -> None:
        for name in names:
            delattr(model, name)

    return restore


def _refusal(model: nn.Module, feature: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def refuse(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if module is not model:
            return method(module, *args, **kwargs)
        raise UnsupportedError(feature, "call generate() greedily, by sampling or with beams")

    return refuse


def _forward_name(module: nn.Module) -> str:
    """Where a module's forward is: accelerate keeps the real one aside."""
    return "_old_forward" if hasattr(module, "_hf_hook") else "forward"
