"""Cuts the input of each batch row into windows, and packs the windows of all rows into steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fotmem.arguments import checked_integer
from fotmem.errors import OptionError
from fotmem.memory.options import MemoryOptions


@dataclass(frozen=True)
class Step:
    """One call of the decoder: the next window of every row that still has one."""

    columns: Tensor
    """Shape ``[B, t]``, int64 on CPU: columns of the input; -1 is padding."""
    is_window: bool
    """Whether these tokens overflow when they are done."""

    @property
    def lengths(self) -> list[int]:
        """Count the tokens of each row."""
        counts: list[int] = (self.columns >= 0).sum(1).tolist()
        return counts

    def gather(self, inputs: Tensor) -> Tensor:
        """Pick this step's tokens ``[B, t]`` (or embeddings ``[B, t, hidden]``) from the input."""
        if self.is_whole(inputs.shape[1]):
            return inputs
        rows = torch.arange(len(self.columns), device=inputs.device)[:, None]
        return inputs[rows, self.columns.clamp(min=0).to(inputs.device)]

    def is_whole(self, length: int) -> bool:
        """Whether this step is the whole input of ``length`` columns, without padding."""
        return self.columns.shape[1] == length and bool((self.columns >= 0).all())


class Outputs:
    """Puts the outputs of the steps back in the order of the input."""

    def __init__(self, real: Tensor) -> None:
        self._real = real  # [B, n], bool: False is padding
        self._steps: list[tuple[Step, Any]] = []

    def add(self, step: Step, outputs: Any) -> None:
        """Take the decoder's output of one step."""
        self._steps.append((step, outputs))

    def joined(self, cache: Any) -> Any:
        """Return one output for the whole input, of the decoder's own class.

        Hidden states of padding are 0. Padding after the tokens of a row gets the hidden state of
        the last token: `generate` goes on from the last column, padding or not.
        """
        kind: Any = type(self._steps[-1][1])
        last_hidden_states = [outputs.last_hidden_state for _, outputs in self._steps]
        # By place: transformers 5.24 renamed past_key_values to cache.
        joined = kind(
            self._padded_right(self._scatter(last_hidden_states)),
            cache,
            self._joined_layers("hidden_states"),
        )
        if hasattr(joined, "router_logits"):  # of a mixture of experts
            joined.router_logits = self._joined_layers("router_logits")
        return joined

    def _joined_layers(self, name: str) -> tuple[Tensor | None, ...] | None:
        """Join what the decoder returned of each layer; None if it returned nothing."""
        if getattr(self._steps[-1][1], name) is None:
            return None
        by_layer = zip(*(getattr(outputs, name) for _, outputs in self._steps), strict=True)
        # None where the caller asked for some layers only
        return tuple(map(self._scatter, by_layer))

    def _padded_right(self, hidden_states: Tensor | None) -> Tensor | None:
        if hidden_states is None or bool(self._real[:, -1:].all()):
            return hidden_states
        behind = self._real.flip(1).int().argmax(1, keepdim=True)  # how much padding
        rows, columns = self._real.shape
        chosen = torch.arange(columns).expand(rows, -1).minimum(columns - 1 - behind)
        return hidden_states[torch.arange(rows)[:, None], chosen]

    def _scatter(self, pieces: Sequence[Tensor | None]) -> Tensor | None:
        first = pieces[0]
        if first is None or (len(pieces) == 1 and self._steps[0][0].is_whole(self._real.shape[1])):
            return first
        joined = first.new_zeros(*self._real.shape, first.shape[-1])
        for (step, _), piece in zip(self._steps, pieces, strict=True):
            rows, places = (step.columns >= 0).nonzero(as_tuple=True)
            assert piece is not None
            by_row = piece.reshape(
                *step.columns.shape, -1
            )  # router logits come as [B * t, experts]
            joined[rows, step.columns[rows, places]] = by_row[rows, places].to(joined.device)
        return joined if first.ndim == 3 else joined.flatten(0, 1)


def plan(real: Tensor, options: MemoryOptions) -> list[Step]:
    """Plan the decoder calls for one input.

    Each batch row is cut by its own tokens, wherever its padding stands, as if it were alone; rows
    with fewer windows wait as padding.

    Parameters
    ----------
    real : Tensor
        Shape ``[B, n]``, bool on CPU: False is padding.
    options : MemoryOptions
        Their ``window``, ``last_context_length`` and ``split_above``.
    """
    rows = [row.nonzero()[:, 0] for row in real]
    cuts = [window_lengths(len(row), options) for row in rows]
    if all(len(cut) == 1 for cut in cuts):
        columns = torch.arange(real.shape[1]).expand(real.shape)
        return [Step(columns.where(real, -1), is_window=False)]
    steps = []
    pieces = [list(row.split(cut)) for row, cut in zip(rows, cuts, strict=True)]
    for index in range(max(len(cut) for cut in cuts) - 1):
        window = [row[index] if index < len(row) - 1 else row[0][:0] for row in pieces]
        steps.append(Step(_pad_left(window), is_window=True))
    steps.append(Step(_pad_left([row[-1] for row in pieces]), is_window=False))
    return steps


def window_lengths(length: int, options: MemoryOptions) -> list[int]:
    """Return the lengths of the windows that overflow, and last what stays local.

    The first ``length - last_context_length`` tokens of an input of more than ``split_above`` run
    in windows of ``window`` tokens.
    """
    if length <= options.split_above:
        return [length]
    gone = length - options.last_context_length
    windows = [min(options.window, gone - start) for start in range(0, gone, options.window)]
    return [*windows, options.last_context_length]


def checked_overlap(overlap: Any, window: int) -> int:
    """Check by how many tokens the windows of a reading may overlap.

    Raises
    ------
    OptionError
        It is negative, or leaves a window nothing to add.
    """
    tokens = checked_integer("overlap", overlap)
    if not 0 <= tokens < window:
        raise OptionError(
            f"overlap must be from 0 to the window less one ({window - 1}), got {tokens}"
        )
    return tokens


def spans(length: int, window: int, overlap: int, before: int = 0) -> list[range]:
    """Return the tokens that each window of a reading adds to memory.

    Every window also sees the `overlap` tokens before its span, or as many as there are; `before`
    of them stand before the first.
    """
    spans, start = [], 0
    while start < length:
        room = window - min(overlap, before + start)
        spans.append(range(start, min(start + room, length)))
        start += room
    return spans


def _pad_left(rows: Sequence[Tensor]) -> Tensor:
    length = max(len(row) for row in rows)
    return torch.stack(
        [torch.nn.functional.pad(row, (length - len(row), 0), value=-1) for row in rows]
    )
