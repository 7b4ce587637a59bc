"""Checks the shapes of windows that attend to other windows."""

from __future__ import annotations

from torch import Tensor

from fotmem.errors import ShapeError


def check_current(query: Tensor, key: Tensor, value: Tensor, padding_mask: Tensor | None) -> None:
    """Check ``query [B, T, H * G, D]``, ``key`` and ``value [B, T, H, D]`` and their mask."""
    if key.ndim != 4 or key.shape[3] % 2:
        raise ShapeError("key", expected="[B, T, H, D], D even", actual=key.shape)
    _check_values("value", value, key)
    rows, tokens, heads, head_dim = key.shape
    expected = f"[B={rows}, T={tokens}, a multiple of H={heads}, D={head_dim}]"
    same = query.ndim == 4 and (*query.shape[:2], query.shape[3]) == (rows, tokens, head_dim)
    if not same or query.shape[2] == 0 or query.shape[2] % heads:
        raise ShapeError("query", expected=expected, actual=query.shape)
    _check_mask("padding_mask", padding_mask, key)


def check_previous(key: Tensor, previous: tuple[Tensor, Tensor], mask: Tensor | None) -> None:
    """Check keys and values ``[B, S, H, D]`` of previous windows, and their mask."""
    rows, _, heads, head_dim = key.shape
    previous_key, previous_value = previous
    if previous_key.ndim != 4 or previous_key.shape[::2] != (rows, heads):
        expected = f"[B={rows}, S, H={heads}, D={head_dim}]"
        raise ShapeError("previous_key", expected=expected, actual=previous_key.shape)
    _check_values("previous_value", previous_value, previous_key)
    _check_mask("previous_padding_mask", mask, previous_key)


def check_bank(key: Tensor, bank: tuple[Tensor, Tensor]) -> None:
    """Check keys and values ``[N, H, D]`` of a bank against ``key [B, T, H, D]``."""
    heads, head_dim = key.shape[2:]
    for name, tensor in zip(("the bank's keys", "the bank's values"), bank, strict=True):
        if tensor.ndim != 3 or tensor.shape[1:] != (heads, head_dim):
            expected = f"[N, H={heads}, D={head_dim}]"
            raise ShapeError(name, expected=expected, actual=tensor.shape)


def _check_values(name: str, value: Tensor, key: Tensor) -> None:
    if value.shape != key.shape:
        raise ShapeError(name, expected=f"{list(key.shape)}, as its keys", actual=value.shape)


def _check_mask(name: str, mask: Tensor | None, key: Tensor) -> None:
    if mask is not None and mask.shape != key.shape[:2]:
        raise ShapeError(name, expected=str(list(key.shape[:2])), actual=mask.shape)
