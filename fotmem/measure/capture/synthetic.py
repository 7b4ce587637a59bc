"""Random captures, whose queries are distributed like their keys, or not."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from torch import Tensor

from fotmem import amounts
from fotmem.arguments import checked_number
from fotmem.errors import OptionError
from fotmem.measure.capture.info import CaptureInfo, KeyValues, doublings
from fotmem.measure.capture.layout import Capture

CENTRES = 1000
"""Centres of the keys of a head."""
APART = 2.0
"""Standard deviation of centres, in units of that of the keys around them."""
WIDEST = 2**20
"""Most numbers in the keys of a token, all heads."""
MEAN = 2.0
"""Each dimension of the mean key, in the same units."""


def capture_random(
    directory: Path | str,
    *,
    tokens: int,
    queries: int = 1024,
    num_heads: int = 3,
    head_dim: int = 64,
    mismatch: float = 0.0,
    seed: int = 0,
) -> Capture:
    """Draw a capture of one layer, number 0.

    Keys lie around 1,000 centres of a head. All centres are on the same side of the origin, like
    keys of attention. A query lies around ``sqrt(1 - mismatch) * centre of keys + sqrt(mismatch) *
    another centre``, and its offset from the origin is ``1 - 2 * mismatch`` times that of the keys.
    With 0 queries are distributed like keys; with 1 they are unlike keys, on the other side of the
    origin. Attention queries are of the second kind.

    Parameters
    ----------
    directory : Path or str
        A new folder, or that of the same capture to continue.
    tokens, queries : int
        Number of keys, and of queries of a head, at least 1.
    num_heads, head_dim : int
        ``H`` and ``D``, at least 1.
    mismatch : float
        From 0 to 1.
    seed : int
        Seed of everything random.

    Raises
    ------
    OptionError
        A number is out of range.
    StorageError
        As `Capture.writing`.
    """
    numbers = {"tokens": tokens, "queries": queries, "num_heads": num_heads, "head_dim": head_dim}
    numbers = {name: amounts.count(name, number) for name, number in numbers.items()}
    tokens, queries, num_heads, head_dim = numbers.values()
    if num_heads * head_dim > WIDEST:
        raise OptionError(
            f"num_heads * head_dim must be at most {WIDEST:,}, got {num_heads} * {head_dim}"
        )
    mismatch = checked_number("mismatch", mismatch, kind="from 0 to 1", least=0, most=1)
    seed = amounts.seed(seed)
    Capture.check_place(directory)
    info = CaptureInfo(
        source={"kind": "random", "mismatch": mismatch, "seed": seed},
        layers=(0,),
        **numbers,
        scale=head_dim**-0.5,
        sizes=doublings(tokens),
    )
    shape = (num_heads, CENTRES, head_dim)
    draw = torch.Generator().manual_seed(seed)
    mean = MEAN * torch.randn(num_heads, 1, head_dim, generator=draw).sign()
    centres = APART * torch.randn(shape, generator=draw)
    others = APART * torch.randn(shape, generator=draw)
    asked = (1 - mismatch) ** 0.5 * centres + mismatch**0.5 * others + (1 - 2 * mismatch) * mean
    with Capture.writing(directory, info, whole=True) as capture:
        for number in range(capture.asked, len(info.sizes)):
            capture.write_queries({0: _around(asked, queries, f"{seed} asked {number}")})
        for span in capture.missing:
            keys = _around(centres + mean, len(span), f"{seed} keys {span.start}")
            values = _around(torch.zeros(shape), len(span), f"{seed} values {span.start}")
            capture.write_part({0: KeyValues(keys, values)})
    return Capture.open(directory)


def _around(centres: Tensor, count: int, seed: str) -> Tensor:
    """Draw `count` points around centres ``[H, C, D]``: ``[H, count, D]``."""
    heads, number, dim = centres.shape
    draw = torch.Generator().manual_seed(random.Random(seed).getrandbits(60))
    which = torch.randint(number, (heads, count, 1), generator=draw)
    noise = torch.randn(heads, count, dim, generator=draw)
    return centres.gather(1, which.expand(-1, -1, dim)) + noise
