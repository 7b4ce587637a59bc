"""Finds the layers that retrieve, which can use a memory."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from fotmem.errors import InputError
from fotmem.files import python_reference
from fotmem.models.memory_layers import LayerScores, refused_layers
from fotmem.models.model_parts import cache_argument, model_parts
from fotmem.models.tokens import token_ids
from fotmem.progress import tracked
from fotmem.tasks.facts import QUESTIONS, Facts
from fotmem.tasks.pass_key import split_answer

CONTEXT = 448
"""Tokens of text around a fact."""
SHARE_OF_BEST = 0.22
"""Share of the best layer's score that a proposed layer must reach."""


def find_memory_layers(
    model: Any,
    tokenizer: Any,
    *,
    text: str | None = None,
    trials: int = 20,
    seed: int = 0,
    progress: bool = False,
) -> LayerScores:
    """Measure which layers retrieve, and propose memory layers.

    A head retrieves if it attends to the next token while the model copies something from far back
    (Wu et al. 2024, "Retrieval Head Mechanistically Explains Long-Context Factuality",
    arXiv:2404.15574). Numbers are hidden in pieces of a text and asked for. The score of a layer is
    the mean weight that its heads give to the right digit. (Wu et al. count how often that weight
    is a head's largest, which favours heads whose weights are all small.) Layers with at least 0.22
    of the best score are proposed.

    A model that was trained with memory from the start needs no search: its config names its memory
    layers (in the paper a quarter, half and three quarters of the depth).

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A model of a supported family, without memory.
    tokenizer : transformers tokenizer
    text : str, optional
        Text to hide numbers in. Default: Python's language reference.
    trials : int
        Number of hidden numbers, at least 1.
    seed : int
        Seed of numbers and places.
    progress : bool
        Show a progress bar on stderr.

    Raises
    ------
    InputError
        The text is too short, or no head retrieves anything.
    ModelError, AttachError
    """
    parts = model_parts(model)
    text = python_reference() if text is None else text
    ids = token_ids(tokenizer, text)
    if len(ids) < CONTEXT:
        raise InputError(f"the text has {len(ids):,} tokens, {CONTEXT:,} are needed: add text")
    weights = []
    for trial in tracked("measuring", range(trials), trials, "trials", shown=progress):
        draw = random.Random(f"retrieval {seed} {trial}")
        start = draw.randrange(len(ids) - CONTEXT + 1)
        piece = ids[start : start + CONTEXT]
        weights.append(_trial(parts.model, tokenizer, piece, trial, draw))
    scores = torch.cat(weights, -1).mean((1, 2)).tolist()  # of [layers, heads, digits]
    refused = refused_layers(parts)
    return LayerScores(
        scores, propose([score * (layer not in refused) for layer, score in enumerate(scores)])
    )


def propose(scores: list[float]) -> list[int]:
    """Return the layers whose score is at least `SHARE_OF_BEST` of the best one.

    Raises
    ------
    InputError
        All scores are 0.
    """
    best = max(scores)
    if best == 0:
        raise InputError(
            "no layer of this model retrieves anything, so no memory layers can be proposed: "
            "pass layers=[...], for a model to be trained from the start at a quarter, half and "
            "three quarters of its depth"
        )
    return [layer for layer, score in enumerate(scores) if score >= SHARE_OF_BEST * best]


def _trial(model: Any, tokenizer: Any, text: list[int], number: int, draw: random.Random) -> Tensor:
    """Hide a number and ask for it; return the weights ``[layers, heads, digits]`` of it."""
    facts = Facts(seed=0)
    fact = next(fact for i in count(1000 * number) if (fact := facts[i]).answer.isdigit())
    told, code = split_answer(tokenizer, f" {fact.say('{Key} is')}", fact.answer)
    asked, code = split_answer(tokenizer, f" {fact.say(QUESTIONS[0])}", fact.answer)
    place = draw.randrange(len(text) + 1)
    before = text[:place] + told + code + text[place:] + asked
    targets = place + len(told) + torch.arange(len(code))
    with torch.no_grad(), _eager(model) as eagerly:
        # Without a config: layers with a sliding window keep all keys, so that columns are tokens.
        cache = {cache_argument(type(model)): DynamicCache()}
        model(torch.tensor([before[:-1]], device=model.device), **cache)
        tokens = torch.tensor([[before[-1], *code[:-1]]], device=model.device)
        eagerly()
        attentions = model(tokens, output_attentions=True, **cache).attentions
    digits = torch.arange(len(code))
    return torch.stack([attention[0].cpu()[:, digits, targets] for attention in attentions])


@contextmanager
def _eager(model: Any) -> Iterator[Any]:
    """Yield a function that switches a model to eager attention, which returns its weights."""
    before = model.config._attn_implementation
    try:
        yield lambda: model.set_attn_implementation("eager")
    finally:
        model.set_attn_implementation(before)
