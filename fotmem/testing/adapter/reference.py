"""What a model with a memory must compute, by the plain model's own attention.

Attention to remembered tokens is the same as attention to tokens at the beginning of the input, all
at the first position, to which every later token attends. So the plain model, in float64 and with a
few hooks, is an oracle for every family: one softmax, without merging, store or adapter.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fotmem.testing.adapter.naive_attention import additive
from fotmem.testing.adapter.recording import attention_keys, named_arguments, record


class ReferenceOutput(NamedTuple):
    """The outputs for one chunk."""

    logits: Tensor
    """Shape ``[n, vocabulary]``, float64."""
    attention: dict[int, Tensor]
    """Per memory layer, ``[n, hidden]``: the output of its attention module."""


class Reference:
    """A model with memory layers, for one row without padding and dense attention to memory.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Plain; it is copied.
    layers : sequence of int
        Memory layers.
    window, last_context_length : int
        As in `fotmem.attach`.
    distance : int
        As in `fotmem.attach`; 0, or at least ``window - 1``.

    Attributes
    ----------
    memory, overflow : dict of int to Tensor
        Per memory layer, ``[N, hidden]``: what its attention was given of each remembered token.
    paths : dict of int to str
        Per memory layer: where in the model its attention module is.
    """

    def __init__(
        self,
        model: Any,
        layers: Sequence[int],
        *,
        window: int,
        last_context_length: int | None = None,
        distance: int = 0,
    ) -> None:
        self._model = copy.deepcopy(model).double()
        self._model.set_attn_implementation("eager")
        self._model.config._experts_implementation = "eager"  # others have no float64
        one = torch.zeros(1, 1, dtype=torch.long)
        calls = record(self._model, one + 1, position_ids=one).calls
        self._attentions = {layer: calls[layer].attention for layer in layers}
        names = {module: name for name, module in self._model.named_modules()}
        self.paths = {layer: names[attention] for layer, attention in self._attentions.items()}
        self._first = {layer: calls[layer].arguments for layer in layers}
        self._window, self._distance = window, distance
        self._far = self._position_arguments(distance + 1)
        self._last = window // 2 if last_context_length is None else last_context_length
        self.memory = {layer: calls[layer].arguments["hidden_states"][0, :0] for layer in layers}
        self.new_sequence()

    def _position_arguments(self, count: int) -> dict[int, dict[str, Any]]:
        """Return what each memory layer is given of the first `count` positions, by argument."""
        tokens = torch.ones(1, count, dtype=torch.long)
        calls = record(self._model, tokens, position_ids=torch.arange(count)[None]).calls
        return {
            layer: {
                name: calls[layer].arguments[name]
                for name in ("position_embeddings", "position_ids")
                if calls[layer].arguments.get(name) is not None
            }
            for layer in self._attentions
        }

    def new_sequence(self) -> None:
        """Forget local context and overflow, keep the memory."""
        self.overflow = {layer: hidden[:0] for layer, hidden in self.memory.items()}
        self._drop_local()

    def _drop_local(self) -> None:
        self._local: Tensor = torch.zeros(0, dtype=torch.long)
        self._inputs: dict[int, Tensor] = {}  # of the local context, as in `memory`

    def read(self, input_ids: Tensor, *, attend: bool = False) -> None:
        """Append tokens ``[n]`` to the memory, window by window."""
        for window in input_ids.split(self._window):
            nothing = {layer: hidden[:0] for layer, hidden in self.memory.items()}
            _, inputs = self._run(window, self.memory if attend else nothing)
            self.memory = _joined(self.memory, inputs)

    def forward(self, input_ids: Tensor) -> ReferenceOutput:
        """Continue the sequence by tokens ``[n]`` in one call."""
        gone = len(input_ids) - self._last if len(input_ids) > self._window else 0
        windows = list(input_ids[:gone].split(self._window)) if gone else []
        fresh, answers = len(self._local) == 0, []
        for chunk in [*windows, input_ids[gone:]]:
            if len(self._local) + len(chunk) > self._window:
                self._move()
            answers.append(self._answer(chunk))
            if fresh and len(answers) <= len(windows):
                self._move()
        logits = torch.cat([answer.logits for answer in answers])
        attention = {
            layer: torch.cat([answer.attention[layer] for answer in answers])
            for layer in self.memory
        }
        return ReferenceOutput(logits, attention)

    def stored(self, layer: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values ``[H, N, D]`` as a store holds them of inputs ``[N, hidden]``."""
        first = self._first[layer]
        arguments = {
            **first,
            "hidden_states": hidden[None],
            "position_embeddings": repeated(first.get("position_embeddings"), len(hidden)),
            "attention_mask": None,
        }
        with torch.no_grad():
            keys, values = attention_keys(self._attentions[layer], layer, arguments)
        return keys[0], values[0]

    def _answer(self, chunk: Tensor) -> ReferenceOutput:
        """Run the local context again, with a chunk at its end: its keys are the same."""
        self._local = torch.cat([self._local, chunk])
        answer, self._inputs = self._run(self._local, _joined(self.overflow, self.memory))
        new = slice(len(self._local) - len(chunk), None)
        return ReferenceOutput(
            answer.logits[new], {key: out[new] for key, out in answer.attention.items()}
        )

    def _move(self) -> None:
        if len(self._local):
            self.overflow = _joined(self.overflow, self._inputs)
        self._drop_local()

    def _run(
        self, tokens: Tensor, remembered: Mapping[int, Tensor]
    ) -> tuple[ReferenceOutput, dict[int, Tensor]]:
        """Run tokens ``[n]``; also return the inputs of the memory layers' attentions."""
        inputs: dict[int, Tensor] = {}
        outputs: dict[int, Tensor] = {}
        positions = torch.arange(len(tokens))[None]
        with torch.no_grad(), self._remembering(remembered, inputs, outputs):
            logits = self._model(tokens[None], position_ids=positions, use_cache=False).logits
        return ReferenceOutput(logits[0], outputs), inputs

    @contextmanager
    def _remembering(
        self,
        remembered: Mapping[int, Tensor],
        inputs: dict[int, Tensor],
        outputs: dict[int, Tensor],
    ) -> Iterator[None]:
        handles: list[Any] = []
        for layer, attention in self._attentions.items():
            before, behind = self._hooks(layer, remembered[layer], inputs, outputs)
            handles.append(attention.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(attention.register_forward_hook(behind, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _at_distance(
        self, layer: int, attention: nn.Module, given: dict[str, Any], rows: Tensor
    ) -> Tensor:
        """Run the attention again for each token, which then stands `distance` after memory."""
        tokens = rows.shape[1]
        count = given["hidden_states"].shape[1] - tokens
        asked = []
        for token in range(tokens):
            begin = self._distance - token  # of the local context; this token sees none later
            places = (begin + torch.arange(tokens)).clamp(max=self._distance)
            moved = {
                name: _begun(repeated(self._first[layer][name], count), _at(places, far))
                for name, far in self._far[layer].items()
            }
            output, *_ = attention.forward(**given | moved)
            asked.append(output[:, count + token])
        return torch.stack(asked, 1)

    def _hooks(
        self, layer: int, old: Tensor, inputs: dict[int, Tensor], outputs: dict[int, Tensor]
    ) -> tuple[Any, Any]:
        first, count = self._first[layer], len(old)

        def before(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, dict[str, Any]]:
            given = named_arguments(args, kwargs)
            hidden = given["hidden_states"]  # [1, n, hidden]
            inputs[layer] = hidden[0]
            given["hidden_states"] = torch.cat([old[None], hidden], 1)
            for name in ("position_embeddings", "position_ids"):
                if given.get(name) is not None:
                    given[name] = _begun(repeated(first[name], count), given[name])
            given["attention_mask"] = _shown(given.get("attention_mask"), count, hidden)
            return (), given

        def behind(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            rows = output[0][:, count:]
            if self._distance and count:
                rows = self._at_distance(layer, module, kwargs, rows)
            outputs[layer] = rows[0]
            return (rows, *output[1:])

        return before, behind


def _shown(mask: Tensor | None, count: int, hidden: Tensor) -> Tensor:
    """Add tokens at the beginning of a mask, to which every token may attend."""
    tokens = hidden.shape[1]
    local = additive(mask, tokens, tokens)
    wide = local.new_zeros(*local.shape[:2], count + tokens, count + tokens)
    wide[..., count:, count:] = local
    return wide


def _joined(old: Mapping[int, Tensor], new: Mapping[int, Tensor]) -> dict[int, Tensor]:
    return {layer: torch.cat([hidden, new[layer]]) for layer, hidden in old.items()}


def repeated(first: Any, count: int) -> Any:
    """Repeat ``[1, 1, ...]`` of one token for several: a tensor, a tuple of them, or None."""
    if isinstance(first, Tensor):
        return first.repeat_interleave(count, dim=1)
    return None if first is None else tuple(repeated(part, count) for part in first)


def _at(places: Tensor, tensors: Any) -> Any:
    """Choose positions of ``[1, n, ...]``: a tensor, or a tuple of them."""
    if isinstance(tensors, Tensor):
        return tensors[:, places]
    return tuple(_at(places, each) for each in tensors)


def _begun(first: Any, rest: Any) -> Any:
    if isinstance(first, Tensor):
        return torch.cat([first, rest], 1)
    return tuple(_begun(*parts) for parts in zip(first, rest, strict=True))
