"""Replaces functions of a model, and restores everything."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any, Protocol

from torch import nn

from fotmem.errors import UnsupportedError

# A replacement is an attribute of the module, bound to it. It carries what it replaced, so that
# copies and pickles of the module (`__getstate__`) are the plain module, loadable anywhere.


class Owner(Protocol):
    """The object that replaced functions of a model: an attached memory, or crossbatch training."""

    @property
    def decoder(self) -> nn.Module:
        """The decoder whose functions were replaced."""


REFUSED_METHODS = {
    "_get_candidate_generator": "assisted generation (or prompt lookup)",
    "init_continuous_batching": "continuous batching",
}
"""Where `generate` of transformers begins what cannot work, before any token is computed."""


def own_forward(module: nn.Module) -> Callable[..., Any]:
    """Return the function behind a module's forward, which takes the module first."""
    forward = getattr(module, _forward_name(module))
    function: Callable[..., Any] | None = getattr(forward, "__func__", None)
    return function or (lambda _, *args, **kwargs: forward(*args, **kwargs))


def owner_of(decoder: nn.Module) -> Owner | None:
    """Return the object that replaced the forward of a decoder, if any."""
    owner: Owner | None = getattr(own_forward(decoder), "fotmem_owner", None)
    return owner


def replace_forward(
    module: nn.Module, owner: Owner, function: Callable[..., Any]
) -> Callable[[], None]:
    """Replace a module's forward by `function`; return what undoes it."""
    function.fotmem_owner = owner  # type: ignore[attr-defined]
    return _replace(module, _forward_name(module), function, plain=own_forward(module))


def refuse_methods(model: nn.Module) -> Callable[[], None]:
    """Make a model refuse by name what cannot work with memory; return what undoes it."""
    undo = [
        _replace(model, name, _refusal(feature), plain=getattr(type(model), name))
        for name, feature in REFUSED_METHODS.items()
        if name not in vars(model) and hasattr(model, name)
    ]

    def restore() -> None:
        for each in undo:
            each()

    return restore


def _refusal(feature: str) -> Callable[..., Any]:
    def refuse(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        raise UnsupportedError(feature, "call generate() greedily, by sampling or with beams")

    return refuse


def _replace(
    module: nn.Module, name: str, function: Any, plain: Callable[..., Any]
) -> Callable[[], None]:
    """Replace a module's method `name`; return what undoes it."""
    function.fotmem_before = (name, vars(module).get(name), plain)
    setattr(module, name, MethodType(function, module))
    vars(module).setdefault("__getstate__", MethodType(_plain_state, module))

    def restore() -> None:
        _put_back(module, vars(module), lambda found: found is function)
        if not any(map(_is_ours, vars(module).values())):
            vars(module).pop("__getstate__", None)

    return restore


def _plain_state(module: nn.Module) -> dict[str, Any]:
    """Return the state of a module that is copied or pickled: its attributes without ours."""
    state: dict[str, Any] = dict(type(module).__getstate__(module))
    del state["__getstate__"]
    _put_back(module, state, lambda found: True)
    return state


def _put_back(
    module: nn.Module, attributes: dict[str, Any], chosen: Callable[[object], bool]
) -> None:
    """Restore what our chosen functions replaced among the attributes of a module."""
    for name, value in list(attributes.items()):
        if not (_is_ours(value) and chosen(value.__func__)):
            continue
        put, before, plain = value.__func__.fotmem_before
        if before is not None:
            attributes[name] = before
        elif name == put:
            del attributes[name]
        else:  # accelerate's hooks were added later, and moved it aside
            attributes[name] = MethodType(plain, module)


def _is_ours(value: object) -> bool:
    return hasattr(getattr(value, "__func__", None), "fotmem_before")


def _forward_name(module: nn.Module) -> str:
    """Return the attribute that holds a module's own forward: accelerate moves it aside."""
    return "_old_forward" if hasattr(module, "_hf_hook") else "forward"
