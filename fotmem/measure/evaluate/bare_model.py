"""What a model without memory loses on a text: in windows that slide, and with full attention."""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import DynamicCache

from fotmem.errors import InputError
from fotmem.measure.evaluate.scored_text import ScoredText, TextPart
from fotmem.models.model_parts import cache_argument
from fotmem.models.predictions import check_predictions

STEP = 512
"""Tokens whose logits are held at once."""


class BareLosses(NamedTuple):
    """What a model without memory loses on a text."""

    losses: Tensor
    """In nats, ``[places, scored]``."""
    seen: int
    """Tokens of a call: the last scored one, and those before it."""
    whole: int
    """The first scored tokens of each part whose context begins where it was asked to begin."""
    seconds: float


class BareModel:
    """Scores a text with a model that has no memory; nothing is computed twice.

    Parameters
    ----------
    model : Any
        A causal language model without a memory.
    text : ScoredText
    """

    def __init__(self, model: Any, text: ScoredText) -> None:
        self._model, self._text = model, text
        self.context: int = model.config.get_text_config().max_position_embeddings
        """Tokens of the model's context."""
        self._known: dict[tuple[int, int], BareLosses] = {}

    def checked(self, window: int, *, refuse: bool) -> bool:
        """Return whether a window can slide: whether context and text are long enough.

        Raises
        ------
        InputError
            They are not, and `refuse` is set.
        """
        before = len(self._text.parts[0].before)
        fits = 2 <= window <= self.context and window // 2 <= before
        if refuse and not fits:
            raise InputError(
                f"a window of {window:,} tokens cannot slide: it must have at least 2; the model "
                f"must have as many positions, and has {self.context:,}; half as many tokens must "
                f"stand before the scored ones, and {before:,} do: take another window, or more "
                "text"
            )
        return fits

    def sliding(self, window: int) -> BareLosses:
        """Slide a window by half its length: each scored token sees at least half a window."""
        return self._score(window, window // 2)._replace(whole=0)

    def full(self, size: int) -> BareLosses:
        """Attend to all scored tokens and to `size` tokens before them.

        These are the tokens that a window sees with a memory that had `size` tokens at the
        beginning. If they do not fit the context, its first call has as many as fit; then it
        slides on, so that each token sees `size` tokens. Where this would be less than half the
        context at a time, it slides from the beginning.
        """
        if size + self._text.scored <= self.context:
            return self._score(size + self._text.scored, self._text.scored)
        if size <= self.context - self.context // 2:
            return self._score(self.context, self.context - size)
        return self.sliding(self.context)

    def _score(self, window: int, step: int) -> BareLosses:
        """Score `step` tokens at a time, each time at the end of a window."""
        step = min(step, self._text.scored)
        if (window, step) not in self._known:
            begin = time.perf_counter()
            rows = [self._part(part, window, step) for part in self._text.parts]
            seconds = time.perf_counter() - begin
            self._known[window, step] = BareLosses(torch.stack(rows), window, step, seconds)
        return self._known[window, step]

    def _part(self, part: TextPart, window: int, step: int) -> Tensor:
        text, found = part.before + part.scored, []
        for start in range(len(part.before), len(text), step):
            tokens = text[start : start + step]
            begin = max(0, start + len(tokens) - window)
            found.append(context_losses(self._model, text[begin:start], tokens))
        return torch.cat(found)


def context_losses(model: Any, before: list[int], tokens: list[int]) -> Tensor:
    """Return the loss of each token in one context that begins with others, in nats.

    With nothing before the first token, its loss is nan.
    """
    known, asked = before[:-1], [*before[-1:], *tokens]
    cache: dict[str, Any] = {cache_argument(type(model)): DynamicCache(config=model.config)}
    found = [] if before else [torch.full((1,), math.nan)]
    with torch.no_grad():
        for start in range(0, len(known), STEP):
            some = torch.tensor([known[start : start + STEP]], device=model.device)
            model(some, logits_to_keep=1, **cache)
        for start in range(0, len(asked) - 1, STEP):
            some = torch.tensor([asked[start : start + STEP + 1]], device=model.device)
            found.append(_losses(model(some[:, :-1], **cache).logits[0], some[0, 1:]))
    return torch.cat(found)


def window_losses(model: Any, tokens: list[int]) -> Tensor:
    """Return the loss of each token in one call of the model, in nats; that of the first is nan."""
    ids = torch.tensor([tokens], device=model.device)
    with torch.no_grad():
        logits = model(ids).logits[0, :-1]
    steps = zip(logits.split(STEP), ids[0, 1:].split(STEP), strict=True)
    return torch.cat([torch.full((1,), math.nan), *(_losses(*each) for each in steps)])


def _losses(logits: Tensor, right: Tensor) -> Tensor:
    losses = cross_entropy(logits.float(), right, reduction="none").cpu()
    check_predictions(losses)
    return losses
