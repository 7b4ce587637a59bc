"""A copy of the untrained model, from whose predictions a tuned one should not diverge."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Teacher:
    """An untrained copy of a model, with which the tuned model should agree.

    It reads the previous and the current window in one context. For the previous window the tuned
    model should predict what the untrained one does, so that it forgets nothing. For the current
    window it should predict, with the previous one in memory, what the untrained model predicts
    with the previous one in its context: context distillation (Askell et al. 2021,
    arXiv:2112.00861).

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Untrained.
    trained : iterable of Parameter
        They are copied; all other weights are shared.
    """

    def __init__(self, model: nn.Module, trained: Iterable[nn.Parameter]) -> None:
        copied = {id(parameter) for parameter in trained}
        shared: dict[int, Any] = {
            id(parameter): parameter
            for parameter in model.parameters()
            if id(parameter) not in copied
        }
        self._model = copy.deepcopy(model, shared).eval().requires_grad_(False)

    def divergence(self, input_ids: Tensor, columns: Tensor, logits: Tensor) -> Tensor:
        """Return how far predictions diverge from the teacher's.

        Parameters
        ----------
        input_ids : Tensor
            int64 ``[2 * B, T]``: previous windows, then current ones.
        columns : Tensor
            int64 ``[n]``: the tokens of each window whose predictions are compared.
        logits : Tensor
            Shape ``[2 * B, n, V]``: predictions at these tokens.

        Returns
        -------
        Tensor
            Shape ``[2 * B, n]``, Kullback-Leibler divergences in nats.
        """
        previous, current = input_ids.chunk(2)
        both = torch.cat([columns, columns + previous.shape[1]])
        with torch.no_grad():
            output = self._model(
                torch.cat([previous, current], 1), use_cache=False, logits_to_keep=both
            )
            expected = torch.cat(output.logits.float().log_softmax(-1).chunk(2, dim=1))
        return (expected.exp() * (expected - logits.log_softmax(-1))).sum(-1)
