"""Keys and values of tokens that a model has read, to answer questions about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from fotmem.measure.evaluate.alternatives.way import Question
from fotmem.models.model_parts import cache_argument
from fotmem.tasks.answer import answer_question

STEP = 512
"""Tokens that run through the model at once."""


@dataclass(frozen=True)
class KeptKeys:
    """Tokens with consecutive positions, and their keys and values in all layers."""

    ids: list[int]
    first: int
    """Position of the first token."""
    pairs: list[tuple[Tensor, Tensor]]
    """Keys and values of each layer, ``[1, H, N, D]``; empty without tokens."""

    @property
    def end(self) -> int:
        """Position of the next token."""
        return self.first + len(self.ids)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return sum(each.nbytes for pair in self.pairs for each in pair)

    def last(self, number: int) -> KeptKeys:
        """Return the last tokens alone."""
        start = max(0, len(self.ids) - number)
        pairs = [(keys[:, :, start:], values[:, :, start:]) for keys, values in self.pairs]
        return KeptKeys(self.ids[start:], self.first + start, pairs)

    def before(self, others: KeptKeys) -> KeptKeys:
        """Return these tokens and others, whose positions come next."""
        if not self.ids or not others.ids:
            return self if self.ids else others
        pairs = [
            (torch.cat([mine[0], theirs[0]], 2), torch.cat([mine[1], theirs[1]], 2))
            for mine, theirs in zip(self.pairs, others.pairs, strict=True)
        ]
        return KeptKeys(self.ids + others.ids, self.first, pairs)

    def extended(self, model: Any, ids: list[int]) -> KeptKeys:
        """Let a model read more tokens, which attend to these; return all."""
        cache = self._cache()
        with torch.no_grad():
            for start in range(0, len(ids), STEP):
                some = torch.tensor([ids[start : start + STEP]], device=model.device)
                positions = torch.arange(some.shape[1], device=model.device) + self.end + start
                argument: dict[str, Any] = {cache_argument(type(model)): cache}
                model(some, position_ids=positions[None], logits_to_keep=1, **argument)
        layers: list[Any] = cache.layers
        pairs = [(layer.keys, layer.values) for layer in layers]
        return KeptKeys(self.ids + ids, self.first, pairs)

    def answer(self, model: Any, tokenizer: Any, question: Question) -> str:
        """Answer a question greedily; what is kept stays as it is."""
        prompt = self.ids + question.prompt
        positions = torch.arange(len(prompt), device=model.device) + self.first
        options: dict[str, Any] = {cache_argument(type(model)): self._cache()}
        return answer_question(
            model,
            tokenizer,
            prompt,
            max_new_tokens=question.new_tokens,
            until=question.until,
            position_ids=positions[None],
            **options,
        ).text

    def _cache(self) -> DynamicCache:
        """Return a cache of its own; without a config, layers with a sliding window keep all."""
        return DynamicCache(self.pairs or None)


def read_keys(model: Any, ids: list[int], first: int = 0) -> KeptKeys:
    """Let a model read tokens, the first of them at a position."""
    return KeptKeys([], first, []).extended(model, ids)
