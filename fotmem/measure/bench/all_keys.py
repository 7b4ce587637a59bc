"""The figures of attention to all keys, of which a store reads some and estimates the others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fotmem.measure.bench.figures import Figure, Truth, interval, p95, relative_errors
from fotmem.measure.bench.report import EstimatedError

PARTS = 4
"""Parts of the queries, by estimated error."""


class AllKeysFigures(NamedTuple):
    """The errors of a store over heads and queries."""

    error: Figure
    """Relative error of the attention output, ``|out - dense| / |dense|``: mean."""
    error_p95: Figure
    """Relative error that 95 of 100 queries do not exceed."""
    estimated_error: float | None
    """Relative error that the store expects: mean."""
    calibration: tuple[EstimatedError, ...]


def all_keys_figures(out: Tensor, estimated: Tensor | None, exact: Truth) -> AllKeysFigures:
    """Compare a store's output ``[H, Q, D]`` with dense attention, and its estimates ``[H, Q]``."""
    errors = relative_errors(out, exact.out)
    return AllKeysFigures(
        error=interval(np.mean, errors.mean(0)),
        error_p95=interval(p95, errors.T),
        estimated_error=None if estimated is None else float(estimated.double().mean()),
        calibration=() if estimated is None else calibration(estimated, errors),
    )


def calibration(estimated: Tensor, errors: Tensor) -> tuple[EstimatedError, ...]:
    """Return the mean estimated and true error of each quarter of the queries of all heads.

    Quarters are by estimated error, lowest first: estimates that can be trusted rise with the true
    errors, and are of their size.
    """
    order = estimated.flatten().argsort(stable=True)
    pairs = torch.stack([estimated.flatten().double(), errors.flatten().double()])
    parts = [some for some in order.tensor_split(PARTS) if len(some)]
    return tuple(EstimatedError(*pairs[:, some].mean(1).tolist()) for some in parts)
