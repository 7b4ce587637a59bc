"""Predicts only at some tokens: a large vocabulary costs a small model more than all its layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def only_scored(model: Any, scored: Tensor) -> Iterator[None]:
    """Let a model predict only at these tokens: its logits are ``[1, n, V]``.

    Parameters
    ----------
    model : transformers.PreTrainedModel or peft.PeftModel
    scored : Tensor
        Bool, `n` of them True, as many as the next call has tokens.
    """

    def choose(head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden_states, *others = inputs
        return hidden_states.flatten(0, 1)[scored.flatten()][None], *others

    handle = model.get_output_embeddings().register_forward_pre_hook(choose)
    try:
        yield
    finally:
        handle.remove()
