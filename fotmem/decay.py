"""Makes what was read longer ago count for less."""

from torch import Tensor

from fotmem.store import Bias

OLDEST = 64
"""Windows; all that is older counts alike, so that what is looked for is found at any age."""


def age_bias(decay: float, window: int, end: int, scale: float) -> Bias | None:
    """Return what is added to scores of keys, by their ids.

    A key of `n` windows ago counts for ``n ** -decay``: forgetting is a power law in people, too
    (Anderson and Schooler 1991), and in Transformers, biases that grow with the logarithm of the
    distance are those of KERPLE (Chi et al. 2022, arXiv:2205.09921).

    Parameters
    ----------
    decay : float
        At least 0; with 0, all keys count alike.
    window : int
        Tokens of a window; so many keys, the last ones, count in full.
    end : int
        Id that the next key would get.
    scale : float
        What attention multiplies scores with.
    """
    if not decay:
        return None

    def bias(ids: Tensor) -> Tensor:
        windows_ago = ((end - ids).float() / window).clamp(1, OLDEST)
        return windows_ago.log() * (-decay / scale)

    return bias
