"""Checks hits, and the contents of small stores."""

from typing import Any

import torch
from torch import Tensor

from fotmem.stores.hits import Bias, Hits
from fotmem.stores.store import MemoryStore
from fotmem.testing.store.expectations import (
    expect_attention,
    expect_rows,
    expect_state,
    expect_tensor,
    fail,
    first_of,
    numbers,
    place_of,
)
from fotmem.testing.store.naive import naive_attention

ROUNDING = 1e-5
"""Of an inner product, in units of the sum of its terms' magnitudes."""


def expect_sound(
    hits: Hits,
    queries: Tensor,
    keys: Tensor,
    top_k: int,
    *,
    first_id: int = 0,
    bias: Bias | None = None,
) -> None:
    """Expect hits that are sound, as those of every store, approximate ones included.

    Parameters
    ----------
    hits : Hits
        What a store answered.
    queries, keys : Tensor
        ``[H, Q, D]``, and all live keys as stored ``[H, N, D]``, the first with id `first_id`.
    """
    __tracebackhide__ = True
    ids, scores = _shaped(hits, queries, top_k)
    missing = ids == -1
    _refuse(missing != (scores == -torch.inf), "mix up padding (id -1, score -inf) and hits", hits)
    _refuse(missing[..., :-1] & ~missing[..., 1:], "have padding (id -1) before a hit", hits)
    outside = ~missing & ((ids < first_id) | (ids >= first_id + keys.shape[1]))
    held = f"{first_id} to {first_id + keys.shape[1] - 1}" if keys.shape[1] else "nothing"
    _refuse(outside, f"have an id outside of the store, which holds {held}", hits)
    if keys.shape[1] == 0 or ids.numel() == 0:
        return
    ranked = ids.sort(-1).values
    _refuse(
        (ranked[..., 1:] == ranked[..., :-1]) & (ranked[..., 1:] >= 0), "have an id twice", hits
    )
    _refuse(scores[..., 1:] > scores[..., :-1], "are not best first", hits)
    places = (ids - first_id).clamp(min=0)
    expected = _products(queries, keys).gather(-1, places)
    if bias is not None:
        expected += bias(places + first_id).double()
    bound = ROUNDING * (_rounding(queries, keys).gather(-1, places) + expected.abs()) + 1e-30
    wrong = ~missing & ~((scores.double() - expected).abs() <= bound)
    _refuse(wrong, "have scores that are not the inner products of the stored keys", hits, expected)


def expect_exact(
    hits: Hits, queries: Tensor, keys: Tensor, top_k: int, *, first_id: int = 0
) -> None:
    """Expect sound hits, and the largest inner products of all; the order of equals is free."""
    __tracebackhide__ = True
    expect_sound(hits, queries, keys, top_k, first_id=first_id)
    found = min(top_k, keys.shape[1])
    ids, scores = hits.ids.cpu()[..., :found], hits.scores.cpu()[..., :found].double()
    if ids.numel() == 0:
        return
    _refuse(
        ids < 0, f"are fewer than the {found} keys that exist (small stores must be exact)", hits
    )
    every, rounding = _products(queries, keys), _rounding(queries, keys)
    best = every.topk(found, dim=-1)
    concerned = torch.cat(
        [rounding.gather(-1, best.indices), rounding.gather(-1, ids - first_id)], -1
    )
    bound = ROUNDING * concerned.amax(-1, keepdim=True) + 1e-30
    missed = ~((scores - best.values).abs() <= bound)
    _refuse(missed, "miss larger inner products (small stores must be exact)", hits, best.values)


def expect_contents(store: MemoryStore, keys: Tensor, values: Tensor, *, first_id: int = 0) -> None:
    """Expect a small store to hold exactly these keys and values, and to find them all."""
    __tracebackhide__ = True
    expect_state(store, first_id=first_id, next_id=first_id + keys.shape[1])
    heads, tokens, dim = keys.shape
    ids = torch.arange(first_id, first_id + tokens).expand(heads, 1, tokens)
    expect_rows(store.keys(ids), ids, keys, "keys", first_id=first_id)
    expect_rows(store.values(ids), ids, values, "values", first_id=first_id)
    generator = torch.Generator().manual_seed(tokens)
    queries = torch.randn(heads, 5, dim, generator=generator)
    for top_k in (3, tokens + 1):
        expect_exact(store.search(queries, top_k), queries, keys, top_k, first_id=first_id)
    if not tokens:
        return
    scale = dim**-0.5
    part = store.attend(queries, top_k=tokens, scale=scale)
    expect_attention(part, naive_attention(queries, keys, values, scale), torch.float32)


def expect_same(one: Any, other: Any, queries: Tensor, keys: Tensor, what: str) -> None:
    """Expect two hits to agree in all scores; keys of equal score may come in any order."""
    __tracebackhide__ = True
    off = differing(one, other, queries, keys)
    if off.any():
        at = first_of(off)
        fail(
            f"{what}: hits of {place_of(at)} have scores {numbers(one.scores[at[:2]].cpu())} "
            f"and {numbers(other.scores[at[:2]].cpu())}"
        )


def differing(one: Hits, other: Hits, queries: Tensor, keys: Tensor) -> Tensor:
    """Return where two hits disagree in score, ``[H, Q, K]``, beyond rounding."""
    mine, theirs = one.scores.cpu(), other.scores.cpu()
    bound = ROUNDING * _rounding(queries, keys).amax(-1, keepdim=True) + 1e-30
    return ~((mine == theirs) | ((mine.double() - theirs.double()).abs() <= bound))


def renumbered(hits: Hits, ids: Tensor) -> Hits:
    """Expect no ids but these ``[n]``, ascending, and replace them by their places among them."""
    __tracebackhide__ = True
    found = hits.ids.cpu()
    places = torch.searchsorted(ids, found).clamp(max=max(0, len(ids) - 1))
    inside = ids[places] == found if len(ids) else torch.zeros_like(found, dtype=torch.bool)
    _refuse((found != -1) & ~inside, "have an id that is not among those that were asked for", hits)
    return Hits(places.where(inside, -1).to(hits.ids.device), hits.scores)


def share_missing(one: Hits, other: Hits, queries: Tensor, keys: Tensor) -> float:
    """Share of the hits of one that the other lacks; equal scores count as equal."""
    bounds = ROUNDING * _rounding(queries, keys).amax(-1) + 1e-30
    missing = 0
    for head, query in differing(one, other, queries, keys).any(-1).nonzero().tolist():
        left = other.scores[head, query].tolist()
        for score in one.scores[head, query].tolist():
            while left and left[0] > score + bounds[head, query]:
                del left[0]
            if left and left[0] >= score - bounds[head, query]:
                del left[0]
            else:
                missing += 1
    return missing / one.scores.numel()


def _shaped(hits: Hits, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    __tracebackhide__ = True
    if not isinstance(hits, Hits):
        fail(f"search must return fotmem.stores.Hits, got {type(hits).__name__}")
    shape = (*queries.shape[:2], top_k)
    expect_tensor(hits.ids, shape, torch.int64, queries.device, "ids")
    expect_tensor(hits.scores, shape, torch.float32, queries.device, "scores")
    ids, scores = hits.ids.cpu(), hits.scores.detach().cpu()
    _refuse(scores.isnan() | (scores == torch.inf), "have scores that are NaN or Inf", hits)
    return ids, scores


def _refuse(bad: Tensor, complaint: str, hits: Hits, expected: Tensor | None = None) -> None:
    """Fail if anything of ``bad [H, Q, K]`` is true, and show the hits of that query."""
    __tracebackhide__ = True
    if not bad.any():
        return
    head, query = first_of(bad)[:2]
    ids, scores = (numbers(found[head, query].detach().cpu()) for found in hits)
    wanted = "" if expected is None else f"; expected scores {numbers(expected[head, query])}"
    fail(f"hits of {place_of((head, query))} {complaint}: ids {ids}, scores {scores}{wanted}")


def _products(queries: Tensor, keys: Tensor) -> Tensor:
    return queries.detach().cpu().double() @ keys.cpu().double().transpose(1, 2)  # [H, Q, N]


def _rounding(queries: Tensor, keys: Tensor) -> Tensor:
    return queries.detach().cpu().double().abs() @ keys.cpu().double().abs().transpose(1, 2)
