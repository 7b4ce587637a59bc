"""Training: where lists lie, and by which codes the keys in them are known."""

from collections.abc import Generator, Iterable
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

from fotmem.stores import Centring, Vectors, moved_centres, nearest_centres
from fotmem_faiss.lists import Clusters, Lists

CODES, CODES_FROM = 256, 2**13
"""Of each part of a vector, and vectors that are enough to train them."""
ITERATIONS, CODE_ITERATIONS = 6, 8
"""Of k-means, for lists and for codes."""
REACH = 0.3
"""How far above its centre a list's best key is hoped to lie, in units of the list's spread."""


def train_lists(
    samples: Iterable[Tensor],
    count: int,
    *,
    seed: int,
    code_size: int | None,
    first: int,
) -> Generator[int, None, Lists]:
    """Cluster a sample of each head's keys into `count` lists, step by step.

    Parameters
    ----------
    samples : iterable of Tensor
        Shape ``[n, D]`` each, float32 on the CPU; taken when a head's turn comes.
    count : int
        Lists of a head.
    seed : int
        Of the first centres.
    code_size : int or None
        Bytes of a key's code, a divisor of ``D``; None: keys are kept in float16.
    first : int
        Id of the first key that will be added.

    Yields
    ------
    int
        The cost of each step: vectors that were compared with all centres of a head.

    Returns
    -------
    Lists
        Without keys.
    """
    heads, offsets = [], []
    for sample in samples:
        frame = Centring.of(sample[None])
        vectors = frame.vectors(sample[None])[0]
        centres = yield from _centres(vectors, count, seed)
        apart, reach = _reach(vectors[::4], centres)
        yield len(apart)
        offsets.append(apart[:CODES_FROM])
        heads.append(Clusters(frame, centres[None], reach))
    parts = None
    if code_size is not None:
        parts = yield from _codes(torch.cat(offsets), code_size)
    clusters = Clusters.joined(heads)
    return Lists(clusters, _index(clusters, parts), first=first)


def _centres(vectors: Tensor, count: int, seed: int) -> Generator[int, None, Tensor]:
    """Find centres ``[L, D]`` of clusters of ``[n, D]``, an iteration a step."""
    order = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(seed))
    centres = vectors[order[:count]]
    for _ in range(ITERATIONS):
        centres = moved_centres(vectors, centres)
        yield len(vectors)
    return centres


def _reach(vectors: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Return the offsets of vectors from their centres, and how far these reach ``[1, 1, L]``."""
    nearest = nearest_centres(vectors[None], centres[None])[0]
    offsets = vectors - centres[nearest]
    squares = nearest.bincount(offsets.double().square().sum(1), minlength=len(centres))
    counts = nearest.bincount(minlength=len(centres))
    reach = REACH * (squares / counts.clamp(min=1)).sqrt().float()
    return offsets, reach[None, None]


def _codes(offsets: Tensor, code_size: int) -> Generator[int, None, list[Vectors]]:
    """Train the codes of each part of a vector's offset from its centre."""
    step = -(-len(offsets) // CODES_FROM)
    parts = []
    for part in offsets[::step].chunk(code_size, 1):
        points = part.contiguous()
        codes = points[:CODES]
        for _ in range(CODE_ITERATIONS):
            codes = moved_centres(points, codes)
        parts.append(codes.numpy())
        yield len(points)
    return parts


def _index(clusters: Clusters, parts: list[Vectors] | None) -> Any:
    """Make an empty index; it never chooses the list of a key itself."""
    heads, count, dim = clusters.centres.shape
    quantizer = faiss.IndexFlatIP(dim)
    quantizer.add(clusters.centres.flatten(0, 1).numpy())
    common = quantizer, dim, heads * count
    if parts is None:
        half = faiss.ScalarQuantizer.QT_fp16
        index = faiss.IndexIVFScalarQuantizer(*common, half, faiss.METRIC_INNER_PRODUCT)
    else:
        index = faiss.IndexIVFPQ(*common, len(parts), 8, faiss.METRIC_INNER_PRODUCT)
        for number, centres in enumerate(parts):
            index.pq.set_params(faiss.swig_ptr(np.ascontiguousarray(centres)), number)
    index.is_trained = True
    return index
