"""Which passages of a memory a prompt attends to most.

The attention of a model ranks passages at least as well as a search engine (Chen et al. 2024,
arXiv:2410.02642; Zhang et al. 2025, arXiv:2506.09944), and memory layers attend to all that was
read. Read once more in the window, a passage is seen by every layer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fotmem.arguments import checked_integer
from fotmem.errors import AttachError
from fotmem.memory.choice import Choice, ChosenMemory, choosing, views_of_rows
from fotmem.memory.explain import CANDIDATES
from fotmem.memory.inputs import checked_tokens
from fotmem.memory.view import MemoryView

NEAR = 16
"""Tokens on both sides of an attended one whose attention counts for the passage around it."""
SINK = 0.02
"""A token to which more than half of all queries give more than this share of their attention, and
more than four times an equal share, is an attention sink (Xiao et al. 2023, arXiv:2309.17453): it
says nothing about the prompt."""
WEAK = 0.3
"""A passage that scores less than this share of what the first one does is left out: it would only
distract."""
LEAST_LEFT = 0.05
"""What is left of a query's attention, at least, when a passage is taken out of its softmax: crumbs
are not made whole."""
LEAST = 32
"""Tokens of a passage, or an eighth of the window if that is less, below which fewer passages are
read again: where a window has little room, or many are asked for."""


class RetrievedPassage(NamedTuple):
    """Neighbouring tokens of a memory that a prompt attends to."""

    start: int
    """Id of the first token, an index into ``memory.tokens``."""
    stop: int
    """The id after that of the last token."""
    weight: float
    """Share of their attention that queries of the prompt give to it, without attention sinks: the
    mean over tokens and the heads that rank passages, from 0 to 1."""


class RereadPrompt(NamedTuple):
    """A prompt with passages that it attends to."""

    input_ids: Tensor
    """int64 ``[1, m + n]`` on the model's device: `m` tokens of passages, and the prompt."""
    passages: list[RetrievedPassage]
    """The passages as they were found; in the prompt they stand in the order of reading."""


class _Attention(NamedTuple):
    """The attention of single queries to remembered tokens, ``[n, k]``."""

    ids: Tensor
    """int64; -1: nothing was found, or it is an attention sink."""
    shares: Tensor
    """float64."""


def retrieve(
    memory: ChosenMemory,
    input_ids: Any,
    passages: int,
    tokens: int,
    asking: int | None,
    room: int | None = None,
) -> list[RetrievedPassage]:
    """See `Memory.retrieve`; with `room` for that many tokens of all passages together."""
    attached = memory.attached_model
    if not attached.is_attached:
        raise AttachError("this memory was detached from its model; attach again to retrieve")
    passages = checked_integer("passages", passages, least=0)
    tokens = checked_integer("tokens", tokens, least=1)
    prompt = checked_tokens(input_ids, attached.parts.decoder.config.vocab_size)
    if asking is not None:
        asking = checked_integer("asking", asking, least=1, most=max(1, len(prompt)))
    if not passages or not len(prompt):
        return []
    options = attached.options
    prompt = prompt[-min(options.window, options.split_above) :]
    view, found = attention_of_heads(memory, prompt, min(asking or len(prompt), len(prompt)))
    if not found:
        return []
    ranking = _ranking(found, attached.retrieval_heads)
    return _fitting(ranking, view, passages, tokens, passages * tokens if room is None else room)


class HeadAttention(NamedTuple):
    """The attention that the heads of a layer give to remembered tokens, ``[H * G, T, k]``."""

    ids: Tensor
    """int64; -1: nothing was found."""
    shares: Tensor
    """float32."""


def attention_of_heads(
    memory: ChosenMemory, prompt: Tensor, asking: int
) -> tuple[MemoryView, dict[int, HeadAttention]]:
    """Run a model over a prompt, and return what its last tokens find in a memory, by layer."""
    attached = memory.attached_model
    # What is asked for may stand anywhere: recent tokens are ranked as all others are.
    alone = Choice(((memory,),), is_by_row=False, has_age=False)
    with torch.no_grad(), choosing(alone):
        [(view,)] = views_of_rows(attached.default, 1)
        attached.decoder(input_ids=prompt[None].to(attached.input_device), use_cache=False)
    trace, found = attached.last_trace, {}
    top_k = view.options.top_k or CANDIDATES
    for layer, (query, _, lse) in trace.layers.items() if trace is not None else ():
        heads, head_dim, scale = attached.geometry(layer)
        asked = query[0, :, -asking:]
        grouped = asked.reshape(heads, -1, head_dim)
        hits = view.search(layer, grouped, min(top_k, len(view.store(layer))), scale)
        shares = (hits.scores - lse[0, :, -asking:].reshape(heads, -1, 1)).exp()
        shape = (*asked.shape[:2], -1)
        found[layer] = HeadAttention(
            hits.ids.reshape(shape).cpu(), shares.float().reshape(shape).cpu()
        )
    return view, found


def _ranking(found: dict[int, HeadAttention], chosen: dict[int, tuple[int, ...]]) -> _Attention:
    """Take the attention of the heads that rank passages, without attention sinks."""
    sinks = _sinks(_of_queries(found.values()))
    ranking = [
        HeadAttention(*(each[list(chosen[layer])] for each in found[layer]))
        for layer in found
        if layer in chosen
    ]
    ids, shares = _of_queries(ranking or found.values())
    hidden = (ids < 0) | torch.isin(ids, sinks)
    return _Attention(ids.masked_fill(hidden, -1), shares.masked_fill(hidden, 0.0))


def _of_queries(found: Iterable[HeadAttention]) -> _Attention:
    """Join the attention of the queries of all heads."""
    ids, shares = (
        torch.cat([each.flatten(0, 1) for each in some]) for some in zip(*found, strict=True)
    )
    return _Attention(ids, shares.double())


def _sinks(attention: _Attention) -> Tensor:
    """Return the ids of attention sinks."""
    ids, shares = attention
    known, place = ids[ids >= 0].unique(return_inverse=True)
    attended = (shares > max(SINK, 4 / max(1, len(known))))[ids >= 0]
    queries = torch.bincount(place[attended], minlength=len(known))
    sinks: Tensor = known[2 * queries > len(ids)]
    return sinks


def _fitting(
    attention: _Attention, view: MemoryView, passages: int, tokens: int, room: int
) -> list[RetrievedPassage]:
    """Find passages that have an equal share of the room; that of weak ones goes to the others."""
    length = max(1, min(tokens, room // passages))
    found = _passages(attention, view, passages, length)
    if 0 < len(found) < passages and length < tokens:
        return _fitting(attention, view, len(found), tokens, room)
    return found


def _passages(
    attention: _Attention, view: MemoryView, passages: int, tokens: int
) -> list[RetrievedPassage]:
    """Take the best passage, then the best as if memory did not hold that one, and so on.

    Without a passage, the softmax of each query gives its share to others: those that say the same,
    or another part of the answer, do not stand in its shadow. No weak ones are taken.
    """
    ids, shares = attention
    found: list[RetrievedPassage] = []
    points: list[float] = []
    known, place = ids.unique(return_inverse=True)
    left = torch.ones(len(ids), 1, dtype=torch.float64)
    while len(found) < passages and bool(shares.any()):
        scores = (shares / left.clamp(min=LEAST_LEFT)) ** 2
        centre = _best(known, torch.bincount(place.flatten(), scores.flatten(), len(known)))
        start, stop = _span(view, centre, tokens)
        start = max([start, *(each.stop for each in found if each.stop <= centre)])
        stop = min([stop, *(each.start for each in found if each.start > centre)])
        inside = (ids >= start) & (ids < stop)
        given = shares * inside
        found.append(RetrievedPassage(start, stop, float(given.sum() / len(ids))))
        points.append(float(scores[inside].sum()))
        left, shares = left - given.sum(1, keepdim=True), shares - given
    return [each for each, got in zip(found, points, strict=True) if got >= WEAK * points[0]]


def _best(ids: Tensor, scores: Tensor) -> int:
    """Return the token, of those near which the scores add up to most, that scores most itself."""
    total = torch.cat([scores.new_zeros(1), scores.cumsum(0)])
    first = torch.searchsorted(ids, ids - NEAR)
    stop = torch.searchsorted(ids, ids + NEAR, right=True)
    nearby = (total[stop] - total[first]).masked_fill(scores == 0, 0.0)
    most = nearby >= nearby.max() * (1 - 1e-9)
    return int(ids[scores.masked_fill(~most, 0.0).argmax()])


def _span(view: MemoryView, centre: int, tokens: int) -> tuple[int, int]:
    """Return the tokens around one, all of its document: a third of them before it.

    Heads attend to the name of what is asked for, and more is said after a name than before it.
    """
    first, end = 0, view.length
    for document in view.contents.text.documents:
        if document.first <= centre < document.stop:
            first, end = document.first, min(document.stop, view.length)
    start = max(first, min(centre - tokens // 3, end - tokens))
    return start, min(start + tokens, end)


def reread(
    memory: ChosenMemory,
    input_ids: Any,
    *,
    passages: int,
    tokens: int,
    asking: int | None,
    prefix: int,
    max_new_tokens: int | None,
) -> RereadPrompt:
    """See `Memory.reread`."""
    attached = memory.attached_model
    prompt = checked_tokens(input_ids, attached.parts.decoder.config.vocab_size)
    passages = checked_integer("passages", passages, least=0)
    tokens = checked_integer("tokens", tokens, least=1)
    prefix = checked_integer("prefix", prefix, least=0, most=len(prompt))
    local = min(attached.options.window, attached.options.split_above)
    if max_new_tokens is None:
        max_new_tokens = local // 8
    new_tokens = checked_integer("max_new_tokens", max_new_tokens, least=0)
    room = max(0, local - new_tokens - len(prompt))
    passages = min(passages, room // min(tokens, LEAST, max(1, local // 8)))
    found = retrieve(memory, prompt, passages, tokens, asking, room)
    text = attached.contents.text
    pieces = [text.rows(each.start, each.stop).ids for each in sorted(found)]
    joined = torch.cat([prompt[:prefix], *pieces, prompt[prefix:]])[None]
    return RereadPrompt(joined.to(attached.input_device), found)
