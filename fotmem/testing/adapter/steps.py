"""The methods of an adapter in a row, on the input that a layer of a plain model got."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fotmem.adapter import Adapter
from fotmem.testing.adapter.calls import draw
from fotmem.testing.adapter.recording import AttentionCall, Run, record

TOKENS = 9


def plain_run(model: Any, *, grad: bool = False, **options: Any) -> Run:
    """Call a plain model with two rows at different positions."""
    tokens = draw(model, 2 * TOKENS).reshape(2, TOKENS)
    positions = torch.arange(TOKENS) + torch.tensor([[0], [5]])
    with torch.set_grad_enabled(grad):
        return record(model, tokens, position_ids=positions, **options)


def chosen(run: Run, layers: Sequence[int]) -> list[tuple[int, AttentionCall]]:
    """Return the calls of some layers."""
    return [(layer, run.calls[layer]) for layer in layers]


def of_layer(adapter: Adapter, call: AttentionCall) -> Adapter:
    """Return the adapter of the layer that was called."""
    return adapter.for_layer(call.attention)


def projected(adapter: Adapter, call: AttentionCall) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key and value of a call, before positions are encoded."""
    hidden_states = call.arguments["hidden_states"]
    return of_layer(adapter, call).project(call.attention, hidden_states)


def rotated(adapter: Adapter, call: AttentionCall) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key and value of a call, positions encoded."""
    query, key, value = projected(adapter, call)
    query, key = of_layer(adapter, call).rotate(
        query, key, call.arguments.get("position_embeddings")
    )
    return query, key, value


def attended(
    adapter: Adapter, call: AttentionCall, query: Tensor, key: Tensor, value: Tensor
) -> Tensor:
    """Call `attend` with the mask and the other arguments of this call."""
    given = ("hidden_states", "position_embeddings", "attention_mask")
    rest = {name: value for name, value in call.arguments.items() if name not in given}
    mask = call.arguments.get("attention_mask")
    return of_layer(adapter, call).attend(call.attention, query, key, value, mask, **rest)


def composed(adapter: Adapter, call: AttentionCall) -> Tensor:
    """Return the output of a layer, computed by the methods in a row."""
    output = attended(adapter, call, *rotated(adapter, call))
    return of_layer(adapter, call).project_out(call.attention, output)
