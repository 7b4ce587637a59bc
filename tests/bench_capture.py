"""A capture of random keys, and all that is measured on it by its definition."""

from pathlib import Path
from typing import Any

import numpy as np

from fotmem.measure.capture import Capture, capture_random

HEADS, DIM, TOKENS = 2, 8, 1500


def make(folder: Path) -> Capture:
    return capture_random(
        folder, tokens=TOKENS, queries=24, num_heads=HEADS, head_dim=DIM, mismatch=0.5
    )


def naive(capture: Capture, size: int, top_k: int) -> dict[str, Any]:
    """Everything by its definition, in float64."""
    rows = capture.rows(0, 0, size)
    keys, values = (each.double().numpy() for each in rows)
    queries = capture.queries(0, size)[:, :20].double().numpy()
    scores = queries @ keys.transpose(0, 2, 1)
    weights = np.exp(scores * capture.info.scale)
    weights /= weights.sum(-1, keepdims=True)
    order = np.argsort(-scores, axis=-1)[..., :top_k]
    return {"scores": scores, "weights": weights, "out": weights @ values, "order": order}
