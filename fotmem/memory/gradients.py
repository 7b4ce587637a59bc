"""Refuses training through a store, which gives no gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fotmem.errors import UnsupportedError


def without_gradient(out: Tensor) -> Tensor:
    """Return attention in which a store took part; `backward` through it raises.

    Otherwise `backward` would silently compute a wrong gradient.
    """
    if not out.requires_grad:
        return out
    apply: Callable[[Tensor], Tensor] = _NoGradient.apply
    return apply(out)


class _NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, out: Tensor) -> Tensor:
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        raise UnsupportedError(
            "backward()", "call memory.detach() or memory.clear() before training"
        )
