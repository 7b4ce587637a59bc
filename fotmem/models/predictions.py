"""Checks that what a model predicts are numbers."""

from __future__ import annotations

import math

from torch import Tensor

from fotmem.errors import InputError

DAMAGED = "its weights are damaged, or its dtype overflows: take --dtype float32"


def check_predictions(predicted: Tensor) -> None:
    """Refuse scores or losses that are nan or inf; a score may be -inf.

    Raises
    ------
    InputError
        One is.
    """
    if not bool((predicted < math.inf).all()):
        raise InputError(f"the model predicts nan or inf, not numbers: {DAMAGED}")
