"""What queries see of a tree, and what they expect of what they do not read."""

from typing import NamedTuple

import torch
from torch import Tensor

from fotmem_clusters.shapes import Shapes
from fotmem_clusters.summaries import Summaries

RISK = 0.5
"""The risk of an entry at most deviations; fitted to captured attention of two models, each with
the scale of its own scores."""
NEEDLE = 0.2
"""How fast the risk of a needle grows with the square of deviations; fitted to answers that hang on
single keys: with less, some are lost; with more, more keys are read for the same answers."""
STEEPEST = 38.0
"""What is exponentiated is at most that."""
FEW = 0.5
"""Deviations at which few keys differ from many, in units of ``sqrt(2 log n)``; chosen by answers
from a dictionary, where it decides most. Of 8 to 64 normal numbers it would be 0.65."""


class Entries(NamedTuple):
    """Nodes of each head, each with what its keys count in attention unless they are read."""

    keys: Tensor
    """Shape ``[H, E, D]``, bfloat16 or float32: mean keys, from the origin."""
    values: Tensor
    """Shape ``[H, E, D]``: mean values."""
    log_sizes: Tensor
    """Shape ``[H, 1, E]``, float32: log of the number of keys, each times the exp of its bias."""
    bounds: Tensor
    """Shape ``[H, 1, E]``, float32: deviations from which the gain is linear."""
    spreads: Tensor
    """Shape ``[H, E, M]``, as `keys`: the spread of each, in the column of its kind."""

    @classmethod
    def of(
        cls, known: Summaries, log_sizes: Tensor, kinds: range, most: float = torch.inf
    ) -> "Entries":
        """Return nodes as entries.

        Parameters
        ----------
        known : Summaries
        log_sizes : Tensor
            Shape ``[H, E]``.
        kinds : range
            The number of each of their kinds among those of clusters and groups, and from 0 to the
            end of the range are all.
        most : float
            Their keys vary like at most as many.
        """
        dtype = torch.bfloat16 if known.keys.dtype == torch.bfloat16 else torch.float32
        numbers = torch.arange(-kinds.start, kinds.stop - kinds.start, device=known.kinds.device)
        return cls(
            keys=known.keys.to(dtype),
            values=known.values.to(dtype),
            log_sizes=log_sizes[:, None],
            bounds=bounds_of(known.sizes, most)[:, None],
            spreads=(known.kinds[..., None] == numbers) * known.spreads[..., None].to(dtype),
        )

    def and_more(self, others: "Entries") -> "Entries":
        """Return these entries and others."""
        places = (1, 1, 2, 2, 1)
        return Entries(
            *(torch.cat(pair[:2], pair[2]) for pair in zip(self, others, places, strict=True))
        )

    def without(self, some: Tensor) -> "Entries":
        """Return these entries; some of them, ``[H, n]``, have no keys."""
        sizes = self.log_sizes.squeeze(1).scatter(1, some, -torch.inf)
        return self._replace(log_sizes=sizes[:, None])

    def scores(self, queries: Tensor) -> Tensor:
        """Return ``[H, Q, E]``: log of the weight, if all keys of an entry were as their mean.

        Inner products count from the origin.
        """
        near = queries.to(self.keys.dtype) @ self.keys.transpose(1, 2)
        return near.float().add_(self.log_sizes)

    def deviations(self, queries: Tensor, shapes: Shapes) -> Tensor:
        """Return ``[H, Q, E]``: the standard deviation of the scores of an entry's keys."""
        along = shapes.spread_along(queries).to(self.spreads.dtype)
        return (along @ self.spreads.transpose(1, 2)).float().sqrt_()

    def output(self, queries: Tensor, weights: Tensor, shapes: Shapes) -> Tensor:
        """Return the summed values ``[H, Q, D]`` of entries with weights ``[H, Q, E]``.

        What a query likes most among the keys of an entry has other values than their mean.
        """
        weights = weights.to(self.values.dtype)
        mean = (weights @ self.values).float()
        return mean + shapes.shift(queries, (weights @ self.spreads).float())


def bounds_of(sizes: Tensor, most: float = torch.inf) -> Tensor:
    """Return the deviations from which the gain of so many numbers, at most `most`, is linear."""
    return sizes.clamp(1, most).log_().mul_(2).sqrt_().mul_(FEW)


def gain(deviations: Tensor, bounds: Tensor) -> Tensor:
    """Return by how much the log of a mean of exp exceeds the mean, of normal numbers.

    Half the variance, as long as among so few numbers there are some of those that dominate the
    mean of many; beyond `bounds`, it grows linearly, with the largest number (the random energy
    model, Derrida 1981).
    """
    steep = torch.minimum(deviations, bounds)
    return deviations.sub(steep, alpha=0.5).mul_(steep)


def risk(deviations: Tensor) -> Tensor:
    """Return the relative error of an estimated entry, in units of the norm of values.

    That is fitted to captured attention, in which it grows with the square of small deviations of
    scores, and with the exp of large ones.
    """
    few = deviations.clamp(max=STEEPEST)
    return few.expm1().sub_(few).mul_(RISK)


def needle_risks(shares: Tensor, deviations: Tensor) -> Tensor:
    """Return the error of entries in which there may be a single key that a query looks for.

    Such a key, by which a model retrieves a fact, is up to five deviations above the mean: more
    than chance would give among few keys. The error is that of `risk` where deviations are small,
    and much larger where they are not.

    Parameters
    ----------
    shares, deviations : Tensor
        Shape ``[H, Q, E]``: the share of each entry in all weight, and the deviation of its scores.
    """
    squares = deviations.square()
    exponents = shares.log().add_(squares, alpha=NEEDLE).clamp_(max=STEEPEST)
    return exponents.exp_().mul_(squares.clamp_(max=STEEPEST)).mul_(RISK / 2)
