"""A copy of the untrained model, from whose predictions a tuned one should not diverge."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fotmem.training.scored import only_scored


class Teacher:
    """An untrained copy of a model, with which the tuned model should agree.

    For the first window of a document the tuned model should predict what the untrained one does,
    so that it forgets nothing. For a later one it should predict, with the windows before it in
    memory, what the untrained model predicts with them in its context: context distillation
    (Askell et al. 2021, arXiv:2112.00861).

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
        self, input_ids: Tensor, scored: Tensor, logits: Tensor, windows: Sequence[int]
    ) -> Tensor:
        """Return how far predictions diverge from the teacher's.

        Parameters
        ----------
        input_ids : Tensor
            int64 ``[W, T]``: the windows of documents, one document after another.
        scored : Tensor
            Bool ``[W, T]``, `n` of them True: the tokens whose predictions are compared.
        logits : Tensor
            Shape ``[n, V]``: predictions at these tokens.
        windows : sequence of int
            How many windows each document has.

        Returns
        -------
        Tensor
            Shape ``[n]``, Kullback-Leibler divergences in nats.
        """
        expected = []
        with torch.no_grad():
            for document, chosen in zip(
                input_ids.split([*windows]), scored.split([*windows]), strict=True
            ):
                with only_scored(self._model, chosen):
                    called = self._model(document.reshape(1, -1), use_cache=False)
                expected.append(called.logits[0].float().log_softmax(-1))
        wanted = torch.cat(expected)
        return (wanted.exp() * (wanted - logits.log_softmax(-1))).sum(-1)
