"""The ends of a text that are scored in windows, and which of their tokens count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fotmem.errors import InputError


class TextPart(NamedTuple):
    """A piece of text whose end is scored."""

    before: list[int]
    scored: list[int]

    def windows(self, length: int) -> list[list[int]]:
        """Cut the scored tokens into windows; the last may be shorter."""
        return [self.scored[i : i + length] for i in range(0, len(self.scored), length)]


class ScoredText:
    """Parts of a text, the end of each of which is scored in windows of several lengths.

    The first token of a window has nothing before it. What is the first token of any window, of
    whatever length, is not counted with any other length either.

    Parameters
    ----------
    ids : list of int
        The whole text.
    windows : sequence of int
        Tokens of a window.
    sizes : sequence of int
        Tokens in memory.
    scored : int
        Tokens to score at the end of each part.
    places : int
        Equal parts of the text.

    Raises
    ------
    InputError
        A window is longer than what is scored; the text is too short for the largest memory.
    """

    def __init__(
        self,
        ids: list[int],
        windows: Sequence[int],
        sizes: Sequence[int],
        *,
        scored: int,
        places: int = 1,
    ) -> None:
        if max(windows) > scored:
            raise InputError(
                f"a window of {max(windows):,} tokens needs as many scored tokens, got "
                f"{scored:,}: score more, or take a smaller window"
            )
        longest = places * (max(sizes) + scored)
        if len(ids) < longest:
            raise InputError(f"the text has {len(ids):,} tokens, {longest:,} are needed: add text")
        ends = [len(ids) * (place + 1) // places for place in range(places)]
        self.parts = [TextPart(ids[: end - scored], ids[end - scored : end]) for end in ends]
        self.counted = torch.ones(places, scored, dtype=torch.bool)
        """Which tokens count, ``[places, scored]``."""
        for window in windows:
            self.counted[:, ::window] = False

    @property
    def scored(self) -> int:
        """Scored tokens of a part, counted or not."""
        return self.counted.shape[1]

    def joined(self, windows: Sequence[Tensor]) -> Tensor:
        """Join the losses of all windows to ``[places, scored]``."""
        return torch.cat(list(windows)).view(self.counted.shape)

    def mean(self, losses: Tensor) -> float:
        """Return the mean of the counted losses; `losses` are ``[places, scored]``."""
        return float(losses[self.counted].mean())

    def window_sums(self, losses: Tensor, window: int) -> Tensor:
        """Sum the counted losses ``[places, scored]`` of each window."""
        counted = losses.masked_fill(~self.counted, 0)
        return torch.cat([some.sum(1) for some in counted.split(window, 1)])

    def window_means(self, losses: Tensor, window: int) -> Tensor:
        """Return the mean of the counted losses of each window that has any."""
        numbers = self._counted_in(window)
        return (self.window_sums(losses, window) / numbers)[numbers > 0]

    def windows_within(self, tokens: int, window: int) -> Tensor:
        """Return which windows lie within the first scored tokens of their part, as `window_sums`.

        The last window may be shorter than the others; one without counted tokens is not returned.
        """
        ends = [min(start + window, self.scored) for start in range(0, self.scored, window)]
        within = torch.tensor(ends) <= tokens
        return within.repeat_interleave(len(self.parts)) & (self._counted_in(window) > 0)

    def _counted_in(self, window: int) -> Tensor:
        """Return how many tokens of each window count, as `window_sums`."""
        return self.window_sums(torch.ones(self.counted.shape), window)
