"""Keeps the caller's autocast out of a store."""

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import torch


class OnDevice(Protocol):
    """What keeps its tensors on a device."""

    device: torch.device


_Given = ParamSpec("_Given")
_Owner = TypeVar("_Owner", bound=OnDevice)
_Result = TypeVar("_Result")


def in_own_precision(
    method: Callable[Concatenate[_Owner, _Given], _Result],
) -> Callable[Concatenate[_Owner, _Given], _Result]:
    """Run a method without the caller's `torch.autocast`: scores are float32."""

    @functools.wraps(method)
    def call(owner: _Owner, /, *args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        if not torch._C._is_any_autocast_enabled():
            return method(owner, *args, **kwargs)
        with ExitStack() as stack:
            for name in {"cpu", owner.device.type}:
                stack.enter_context(torch.autocast(name, enabled=False))
            return method(owner, *args, **kwargs)

    return call
