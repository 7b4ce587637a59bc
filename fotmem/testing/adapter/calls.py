"""Calls of a tiny model that the contract of adapters makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from fotmem.memory.attachment import attach
from fotmem.memory.memory import Memory
from fotmem.models.model_parts import cache_argument

IMPLEMENTATIONS = ("sdpa", "eager")
SIDES = ("left", "right")
WINDOW = 16
JOINT = 1e-4
"""Largest difference of logits where one softmax is computed in parts."""


def draw(model: Any, count: int, *, seed: int = 0) -> Tensor:
    """Draw token ids ``[count]``, none of them the padding 0."""
    generator = torch.Generator().manual_seed(1000 + seed)
    vocabulary = model.config.get_text_config().vocab_size
    return torch.randint(1, vocabulary, (count,), generator=generator)


def use_attention(model: Any, implementation: str) -> None:
    """Switch a model to an attention implementation; skip the test if it does not have it."""
    try:
        model.set_attn_implementation(implementation)
    except (ImportError, ValueError) as error:
        pytest.skip(f"{type(model).__name__} has no {implementation} attention: {error}")


def attached(model: Any, layers: Sequence[int], **options: Any) -> Memory:
    """Attach a memory to layers, with the window of these tests and dense attention."""
    return attach(model, layers=layers, **{"window": WINDOW, "top_k": None, **options})


def cached(model: Any, cache: object) -> dict[str, Any]:
    """Return the argument that passes a cache; transformers 5.24 renamed it."""
    return {cache_argument(type(model)): cache}


def answers(model: Any) -> dict[str, Tensor]:
    """Return logits of calls that stay inside the window."""
    ids = draw(model, WINDOW)[None]
    return {
        "one row": model(ids).logits,
        "all tokens in the mask": model(ids, attention_mask=torch.ones_like(ids)).logits,
        "no cache": model(ids, use_cache=False).logits,
        "embeddings": model(inputs_embeds=model.get_input_embeddings()(ids)).logits,
        "two rows": model(torch.cat([ids, ids.flip(1)])).logits,
        "in turns": in_turns(model, ids[0], [9, 1, WINDOW - 10]),
    }


def in_turns(model: Any, tokens: Tensor, sizes: list[int]) -> Tensor:
    """Return logits ``[1, n, vocabulary]`` of calls that pass on their cache."""
    cache, pieces = None, []
    for chunk in tokens.split(sizes):
        out = model(chunk[None], **cached(model, cache))
        cache = out[1]
        pieces.append(out.logits)
    return torch.cat(pieces, 1)


def generate(model: Any, ids: Tensor, options: dict[str, Any]) -> Tensor:
    """Generate a few tokens greedily."""
    tokens: Tensor = model.generate(ids, max_new_tokens=5, do_sample=False, **options)
    return tokens


def padded(texts: Sequence[Tensor], side: str) -> tuple[Tensor, Tensor]:
    """Pack rows ``[n]`` into ids and attention mask ``[B, longest]``."""
    longest = max(len(text) for text in texts)
    ids = torch.zeros(len(texts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        place = slice(longest - len(text), None) if side == "left" else slice(len(text))
        ids[row, place], mask[row, place] = text, 1
    return ids, mask
