"""Finds the heads of a trained model that rank passages."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from random import Random
from typing import Any

import torch
from torch import Tensor

from fotmem.memory.attachment import attach
from fotmem.memory.retrieval import attention_of_heads
from fotmem.models.tokens import token_ids
from fotmem.progress import tracked
from fotmem.tasks.facts import QUESTIONS, STATEMENTS, Facts

TOKENS, DOCUMENTS, FACTS = 8192, 8, 32
"""Tokens of the text, documents that it is taken from, and facts hidden in it."""
LOCAL = 16
"""Tokens of text before a question."""
SHARE, LEAST = 10, 4
"""One in so many heads ranks passages, but not fewer of all layers than this."""


def find_retrieval_heads(
    model: Any,
    tokenizer: Any,
    documents: Sequence[Tensor],
    *,
    window: int,
    seed: int,
    progress: bool,
) -> dict[int, list[int]]:
    """Ask for facts that are hidden in a text; return the heads that attend to them most.

    A head counts by the mean square of the attention that its queries give to tokens of the fact
    that is asked for, among all that memory holds. As in Zhang et al. (2025, arXiv:2506.09944), few
    facts are enough.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Its config names the memory layers.
    tokenizer : transformers tokenizer
    documents : sequence of Tensor
        int64 ``[n]`` each: text that was not trained on.
    window : int
        Tokens of local context.
    seed : int
        Of text, facts, places and wordings.
    progress : bool
        Whether progress is shown on stderr.

    Returns
    -------
    dict of int to list of int
        Query heads by layer.
    """
    draw = Random(f"retrieval heads {seed}")
    facts = [Facts(seed + 3 * 10**6)[number] for number in range(FACTS)]
    stated = [token_ids(tokenizer, f" {fact.say(draw.choice(STATEMENTS))}") for fact in facts]
    text, starts = _hidden(stated, _text(documents, draw), draw)
    with attach(model, window=window) as memory:
        memory.read(text, attend=False)
        scores: dict[tuple[int, int], float] = {}
        places = list(zip(facts, stated, starts, strict=True))
        for fact, words, start in tracked("retrieval heads", iter(places), FACTS, shown=progress):
            asked = token_ids(tokenizer, f" {fact.say(draw.choice(QUESTIONS))}")
            prompt = torch.tensor([*text[-LOCAL:], *asked])[-window:]
            _, found = attention_of_heads(memory, prompt, min(len(asked), len(prompt)))
            for layer, (ids, shares) in found.items():
                inside = (ids >= start) & (ids < start + len(words))
                for head, score in enumerate((shares**2 * inside).sum((1, 2)).tolist()):
                    scores[layer, head] = scores.get((layer, head), 0.0) + score / len(asked)
    best = sorted(scores, key=lambda place: -scores[place])[: max(LEAST, len(scores) // SHARE)]
    return {
        layer: sorted(head for other, head in best if other == layer)
        for layer in sorted({layer for layer, _ in best})
    }


def _text(documents: Sequence[Tensor], draw: Random) -> list[int]:
    """Join the beginnings of some documents."""
    some = draw.sample(list(documents), min(DOCUMENTS, len(documents)))
    return [token for each in some for token in each[: TOKENS // len(some)].tolist()]


def _hidden(
    hidden: Sequence[list[int]], text: list[int], draw: Random
) -> tuple[list[int], list[int]]:
    """Insert parts into a text at random places, none in its end; return where each stands."""
    places = sorted(draw.randrange(max(1, len(text) - LOCAL)) for _ in hidden)
    joined, starts = text[: places[0]], []
    for part, (place, following) in zip(hidden, pairwise([*places, len(text)]), strict=True):
        starts.append(len(joined))
        joined += [*part, *text[place:following]]
    return joined, starts
