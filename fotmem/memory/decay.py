"""Says how much remembered keys count for beside those of the local context."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from fotmem.stores.hits import Bias
    from fotmem.stores.store import MemoryStore

OLDEST = 64
"""Windows; all that is older counts alike, so that what is looked for is found at any age."""


class Weighing(NamedTuple):
    """How scores of remembered keys become weights."""

    decay: float = 0.0
    """A key of `n` windows ago counts for ``n ** -decay``: forgetting is a power law in people, too
    (Anderson and Schooler 1991), and in Transformers, biases that grow with the logarithm of the
    distance are those of KERPLE (Chi et al. 2022, arXiv:2205.09921)."""
    temperature: float = 1.0
    """What scores are divided by. The more keys, the more those that fit badly weigh together; the
    lower the temperature, the less (as in Scalable-Softmax, Nakanishi 2025, arXiv:2501.19399)."""

    def of(self, store: MemoryStore, window: int, scale: float) -> tuple[float, Bias | None]:
        """Return the scale and the bias with which to attend to a store.

        Parameters
        ----------
        store : MemoryStore
            It holds keys of windows of `window` tokens.
        window : int
            Tokens of a window; so many keys, the last ones, count in full.
        scale : float
            What the model multiplies scores with.
        """
        scale = scale / self.temperature
        if not self.decay:
            return scale, None
        decay, end = self.decay / scale, store.next_id

        def bias(ids: Tensor) -> Tensor:
            windows_ago = ((end - ids).float() / window).clamp(1, OLDEST)
            return windows_ago.log() * -decay

        return scale, bias
