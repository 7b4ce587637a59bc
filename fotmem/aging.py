"""How fast remembered keys lose weight, in memories and in training."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

LONGEST_AGE_STEP = 256
"""Tokens."""
OLD = 8
"""Age, in steps, from which a key loses weight twice as fast."""


def age_step(window: int) -> int:
    """Return in how many tokens the age of keys is counted: those of a window, but at most 256.

    How fast a text ages does not depend on how much of it a window shows.
    """
    return min(window, LONGEST_AGE_STEP)


def decay_of(decay: float | Mapping[int, float], layer: int) -> float:
    """Return the decay of a layer; where it is by layer, others have none."""
    return decay.get(layer, 0.0) if isinstance(decay, Mapping) else decay


def log_weights(ages: Tensor, decay: float) -> Tensor:
    """Return the logarithms of the weights of keys of these ages.

    A key of `n` steps ago has ``n ** -decay`` times the weight of a local key with the same score,
    and ``(n * n / 8) ** -decay`` times from 8 steps on: with a decay of more than 0.5, the weights
    of all older keys together have a limit, however large a memory is. Forgetting is a power law in
    people, too (Anderson and Schooler 1991); a bias that grows with the logarithm of the distance
    is that of KERPLE (Chi et al. 2022, arXiv:2205.09921).

    Parameters
    ----------
    ages : Tensor
        Steps, above 0, of any shape and floating type.
    decay : float
        At least 0.
    """
    return -decay * (ages.log() + (ages / OLD).clamp(min=1).log())
