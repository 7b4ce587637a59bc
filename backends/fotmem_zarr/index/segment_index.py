"""The part of a segment that stays in memory: what its clusters hold, and where buckets begin."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fotmem_zarr.index.clusters import ClusterSummary
from fotmem_zarr.index.limits import CLUSTER

FAR = 1.5
"""Standard deviations above the mean of a cluster at which the best eighth of its scores lies."""


class SegmentIndex:
    """Summaries, sizes and buckets of the clusters of a segment.

    Parameters
    ----------
    summary : ClusterSummary
        ``[H, C, D]``, ``[H, C, D]``, ``[H, C]``.
    sizes : Tensor
        ``[H, C]``, int32: keys of each cluster; 0 where a head has fewer clusters.
    buckets : Tensor
        ``[H, P + 1]``, int32: the clusters where the buckets begin.
    centres : Tensor
        ``[H, P, D]``, float32: of the buckets, shared by all segments.
    """

    def __init__(
        self, summary: ClusterSummary, sizes: Tensor, buckets: Tensor, centres: Tensor
    ) -> None:
        self.summary = summary
        self.sizes = sizes
        self.buckets = buckets
        self.centres = centres

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "SegmentIndex":
        """Take the tensors that `tensors` returns."""
        summary = ClusterSummary(tensors["means"], tensors["variances"], tensors["spread"])
        return cls(summary, tensors["sizes"], tensors["buckets"], tensors["centres"])

    def tensors(self) -> dict[str, Tensor]:
        """Return its tensors by the names of their arrays on disk."""
        means, variances, spread = self.summary
        return {
            "means": means,
            "variances": variances,
            "spread": spread,
            "sizes": self.sizes,
            "buckets": self.buckets,
            "centres": self.centres,
        }

    @property
    def bytes(self) -> int:
        """Bytes that it takes in memory."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def fits(self, rows: int) -> bool:
        """Return whether it can be the index of `rows` rows."""
        sizes, buckets = self.sizes, self.buckets
        return bool(
            0 <= sizes.min() <= sizes.max() <= CLUSTER
            and (sizes.sum(1) == rows).all()
            and (buckets[:, 0] == 0).all()
            and (buckets.diff(dim=1) >= 0).all()
            and (buckets[:, -1] == (sizes > 0).sum(1)).all()
            and all(part.isfinite().all() for part in (*self.summary, self.centres))
        )

    def estimate(self, queries: Tensor) -> Tensor:
        """Estimate the best score in each cluster for queries ``[H, Q, D]``: ``[H, Q, C]``.

        The keys of a cluster are taken to spread along each dimension as their variance says.
        """
        means, variances, spread = self.summary
        size = queries.abs().amax(-1, keepdim=True)
        relative = queries / size.clamp(min=torch.finfo(torch.float32).tiny)
        deviation = (relative.square() @ variances.transpose(1, 2)).sqrt_()
        deviation *= FAR * size * spread[:, None]
        best = deviation.add_(queries @ means.transpose(1, 2))
        return best.masked_fill_((self.sizes == 0)[:, None], -torch.inf)
