"""Compares a store's answers with the expected ones, and reports differences."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import torch
from torch import Tensor

from fotmem.attention import PartialAttention
from fotmem.stores.hits import Hits
from fotmem.stores.store import MemoryStore

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
"""Of an attention output in units of its largest value: the rounding of results and weights."""


def fail(message: str) -> NoReturn:
    """Fail; unlike `assert`, also under ``python -O``."""
    __tracebackhide__ = True
    raise AssertionError(message)


@contextmanager
def fault(what: str) -> Iterator[None]:
    """Begin the message of every failure inside with `what` is wrong."""
    __tracebackhide__ = True
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{what}: {error}") from None
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error


def expect(actual: object, expected: object, what: str) -> None:
    """Expect two plain things to be equal."""
    __tracebackhide__ = True
    if actual != expected:
        fail(f"{what} must be {expected}, got {actual}")


def expect_tensor(
    tensor: Tensor, shape: Iterable[int], dtype: torch.dtype, device: torch.device, name: str
) -> None:
    """Expect a shape, a dtype and a kind of device."""
    __tracebackhide__ = True
    if not isinstance(tensor, Tensor):
        fail(f"{name} must be a tensor, got {type(tensor).__name__}")
    expect(list(tensor.shape), list(shape), f"shape of {name}")
    expect(tensor.dtype, dtype, f"dtype of {name}")
    expect(tensor.device.type, device.type, f"device of {name} (that of the queries or ids)")


def expect_state(store: MemoryStore, *, first_id: int, next_id: int) -> None:
    """Expect a store to hold the keys from `first_id` up to `next_id`, this one excluded."""
    __tracebackhide__ = True
    expect(store.next_id, next_id, "next_id")
    expect(store.first_id, first_id, "first_id")
    expect(len(store), next_id - first_id, "len")


def expect_attention(
    part: PartialAttention,
    expected: tuple[Tensor, Tensor],
    dtype: torch.dtype,
    device: torch.device | None = None,
) -> None:
    """Expect an attention, given ``out [..., Q, D]`` and ``lse [..., Q]`` in float64."""
    __tracebackhide__ = True
    out, lse = expected
    device = device or part.out.device
    expect_tensor(part.out, out.shape, dtype, device, "out")
    expect_tensor(part.lse, lse.shape, torch.float32, device, "lse")
    if lse.numel() == 0:
        return
    size = max(1.0, out.abs().max().item())
    actual, actual_lse = part.out.detach().cpu().double(), part.lse.detach().cpu().double()
    off = ~((actual_lse == lse) | ((actual_lse - lse).abs() <= 1e-4 + 1e-5 * lse.abs()))
    if off.any():
        at = first_of(off)
        fail(f"lse of {place_of(at)} must be {lse[at]:.6g}, got {actual_lse[at]:.6g}")
    off = ~((actual - out).abs() <= TOLERANCE[dtype] * size).all(-1)
    if off.any():
        at = first_of(off)
        fail(
            f"out of {place_of(at)} must be {numbers(out[at])}, within "
            f"{TOLERANCE[dtype] * size:.2g}, got {numbers(actual[at])}"
        )


def expect_softmax_of(
    hits: Hits, part: PartialAttention, queries: Tensor, values: Tensor, scale: float, first_id: int
) -> None:
    """Expect an attention that is the softmax over these hits, given all live values."""
    __tracebackhide__ = True
    ids, scores = hits.ids.cpu(), hits.scores.cpu().double() * scale
    heads = torch.arange(ids.shape[0])[:, None, None]
    rows = values.double()[heads, (ids - first_id).clamp(min=0)]  # [H, Q, K, D]
    out = torch.einsum("hqk,hqkd->hqd", scores.softmax(-1).nan_to_num(0.0), rows)
    expect_attention(part, (out, scores.logsumexp(-1)), queries.dtype, queries.device)


def expect_rows(
    found: Tensor, ids: Tensor, stored: Tensor, name: str, *, first_id: int = 0
) -> None:
    """Expect what `keys` or `values` looked up to be bit for bit what was stored."""
    __tracebackhide__ = True
    expect_tensor(found, (*ids.shape, stored.shape[2]), stored.dtype, ids.device, name)
    ids, found = ids.cpu(), found.detach().cpu()
    if found.numel() == 0:
        return
    heads = torch.arange(ids.shape[0])[:, None, None]
    rows = (
        stored[heads, (ids - first_id).clamp(min=0)] if stored.shape[1] else torch.zeros_like(found)
    )
    rows = rows.masked_fill((ids < 0)[..., None], 0)
    wrong = (found != rows).any(-1)
    if wrong.any():
        at = first_of(wrong)
        fail(
            f"{name} of id {int(ids[at])} in head {at[0]} must be {numbers(rows[at])}, "
            f"as stored (id -1: zeros), got {numbers(found[at])}"
        )


def first_of(bad: Tensor) -> tuple[int, ...]:
    """Return the first place where something is true."""
    return tuple(bad.nonzero()[0].tolist())


def place_of(at: tuple[int, ...]) -> str:
    """Name a head and a query."""
    return f"head {at[0]}, query {at[1]}"


def numbers(row: Tensor, most: int = 8) -> str:
    """Show the first numbers of a row."""
    shown = [f"{number:.6g}" for number in row.flatten()[:most].tolist()]
    return f"[{', '.join([*shown, '...'] if row.numel() > most else shown)}]"
