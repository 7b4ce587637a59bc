"""A copy of the untrained model, from whose predictions a tuned one should not diverge."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Teacher:
    """An untrained copy of a model, with which the tuned model should agree.

    For the previous window the tuned model should predict what the untrained one does, so that it
    forgets nothing. For the current window it should predict, with all windows before it in memory,
    what the untrained model predicts with them in its context: context distillation (Askell et al.
    2021, arXiv:2112.00861).

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

    def divergence(
        self,
        input_ids: Tensor,
        columns: Tensor,
        logits: Tensor,
        earlier: Sequence[Tensor] = (),
    ) -> Tensor:
        """Return how far predictions diverge from the teacher's.

        Parameters
        ----------
        input_ids : Tensor
            int64 ``[2 * B, T]``: previous windows, then current ones.
        columns : Tensor
            int64 ``[n]``: the tokens of each window whose predictions are compared.
        logits : Tensor
            Shape ``[2 * B, n, V]``: predictions at these tokens.
        earlier : sequence of Tensor
            For each document int64 ``[P, T]``, the windows before its previous one.

        Returns
        -------
        Tensor
            Shape ``[2 * B, n]``, Kullback-Leibler divergences in nats.
        """
        previous, current = input_ids.chunk(2)
        earlier = earlier or [one[:0, None] for one in previous]
        with torch.no_grad():
            expected = [
                self._predict(*windows, columns)
                for windows in zip(previous, current, earlier, strict=True)
            ]
        before, after = (torch.cat(each) for each in zip(*expected, strict=True))
        wanted = torch.cat([before, after]).float().log_softmax(-1)
        return (wanted.exp() * (wanted - logits.log_softmax(-1))).sum(-1)

    def _predict(
        self, previous: Tensor, current: Tensor, earlier: Tensor, columns: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return logits ``[1, n, V]`` for a previous window alone, and for a current one."""
        length = len(previous)
        if not len(earlier):
            both = torch.cat([columns, columns + length])
            first, second = self._logits(torch.cat([previous, current]), both).chunk(2, dim=1)
            return first, second
        context = torch.cat([*earlier, previous, current])
        return self._logits(previous, columns), self._logits(
            context, columns + (len(earlier) + 1) * length
        )

    def _logits(self, tokens: Tensor, columns: Tensor) -> Tensor:
        logits: Tensor = self._model(tokens[None], use_cache=False, logits_to_keep=columns).logits
        return logits
