"""Training: where lists lie, and by which codes the keys in them are known."""

from collections.abc import Generator
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

from fotmem import Vectors
from fotmem_faiss.lists import Clusters, Lists

CODES, CODES_FROM = 256, 2**13
"""Of each part of a vector, and vectors that are enough to train them."""
ITERATIONS = 6
"""Of k-means."""


def train_lists(
    sample: Tensor, count: int, *, nprobe: int, seed: int, code_size: int | None, first: int
) -> Generator[int, None, Lists]:
    """Cluster a sample ``[H, n, D]`` into `count` lists a head, step by step.

    Parameters
    ----------
    sample : Tensor
        Float32 on the CPU.
    count, nprobe : int
        Lists of a head, and how many of them a query looks at.
    seed : int
        Of the first centres.
    code_size : int or None
        Bytes of a key's code, a divisor of ``D``; None: keys are kept whole.
    first : int
        Id of the first key that will be added.

    Yields
    ------
    int
        After each step, what it cost: so many vectors compared with all centres.

    Returns
    -------
    Lists
        Without keys.
    """
    clusters = Clusters(sample)
    vectors = clusters.frame.vectors(sample)
    order = torch.randperm(sample.shape[1], generator=torch.Generator().manual_seed(seed))
    centres = [some[order[:count]].numpy() for some in vectors]
    for _ in range(ITERATIONS):
        for head, some in enumerate(vectors):
            centres[head] = _kmeans(some.numpy(), centres[head], iterations=1, seed=seed)
            yield len(some)
    clusters.settle(torch.from_numpy(np.stack(centres)), vectors[:, ::4])
    yield vectors[:, ::4].shape[:2].numel()
    parts = None
    if code_size is not None:
        parts = yield from _codes(clusters, vectors, code_size, seed)
    return Lists(clusters, _index(clusters, parts, nprobe), first=first)


def _codes(
    clusters: Clusters, vectors: Tensor, code_size: int, seed: int
) -> Generator[int, None, list[Vectors]]:
    """Train the codes of each part of a vector's offset from its centre."""
    step = -(-vectors.shape[:2].numel() // CODES_FROM)
    some = vectors[:, ::step]
    lists = clusters.lists_of(some).flatten()
    offsets = some.flatten(0, 1) - clusters.centres.flatten(0, 1)[lists]
    parts = []
    for part in offsets.chunk(code_size, 1):
        points = np.ascontiguousarray(part.numpy())
        parts.append(_kmeans(points, points[:CODES], iterations=8, seed=seed))
        yield len(points)
    return parts


def _kmeans(vectors: Vectors, centres: Vectors, *, iterations: int, seed: int) -> Vectors:
    kmeans = faiss.Kmeans(
        vectors.shape[1],
        len(centres),
        niter=iterations,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(vectors),
    )
    kmeans.train(vectors, init_centroids=centres)
    found: Vectors = kmeans.centroids
    return found


def _index(clusters: Clusters, parts: list[Vectors] | None, nprobe: int) -> Any:
    """Make an empty index; which list a key belongs to is never asked of it."""
    heads, count, dim = clusters.centres.shape
    quantizer = faiss.IndexFlatIP(dim)
    quantizer.add(clusters.centres.flatten(0, 1).numpy())
    common = quantizer, dim, heads * count
    if parts is None:
        index = faiss.IndexIVFFlat(*common, faiss.METRIC_INNER_PRODUCT)
    else:
        index = faiss.IndexIVFPQ(*common, len(parts), 8, faiss.METRIC_INNER_PRODUCT)
        for number, centres in enumerate(parts):
            index.pq.set_params(faiss.swig_ptr(np.ascontiguousarray(centres)), number)
    index.is_trained = True
    index.nprobe = min(nprobe, count)
    return index
