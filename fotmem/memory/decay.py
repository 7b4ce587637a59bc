"""Weighs remembered keys by their age, and sharpens or flattens their scores."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fotmem.aging import age_step, decay_of, log_weights
from fotmem.memory.options import MemoryOptions
from fotmem.stores.hits import Bias
from fotmem.stores.id_ranges import IdRanges
from fotmem.stores.store import MemoryStore


def scale_and_bias(
    store: MemoryStore,
    layer: int,
    scale: float,
    options: MemoryOptions,
    among: IdRanges | None = None,
    end: int | None = None,
) -> tuple[float, Bias | None]:
    """Return the scale and the bias with which to attend to a store.

    With a ``decay``, older keys have less weight (`fotmem.aging.log_weights`). Their age is counted
    in windows; of windows of more than 256 tokens, each 256 count as one.

    The ``temperature`` divides scores. The more keys there are, the more the poor matches weigh
    together; a lower temperature makes them weigh less (as in Scalable-Softmax, Nakanishi 2025,
    arXiv:2501.19399).

    Parameters
    ----------
    store : MemoryStore
        Its last ``window`` keys, or 256, keep their full weight.
    layer : int
        The memory layer that it is of.
    scale : float
        Factor of the scores in the model.
    options : MemoryOptions
        Their ``decay``, ``temperature`` and ``window``.
    among : IdRanges, optional
        The keys that count; the age of a key is the number of these after it.
    end : int, optional
        The id after the last key that counts. Default: that of the store.
    """
    scale = scale / options.temperature
    decay = decay_of(options.decay, layer)
    if not decay:
        return scale, None
    end = store.next_id if end is None else end
    counted = None if among is None else among.within(store.first_id, end)
    number = end if counted is None else len(counted)
    return scale, Decay(decay / scale, age_step(options.window), number, counted)


@dataclass(frozen=True)
class Decay:
    """What is added to the score of a key because of its age.

    Stores may keep what they compute with it: two with equal fields are equal.
    """

    decay: float
    """Exponent, in units of scores before they are scaled."""
    step: int
    """Tokens in which ages are counted."""
    end: int
    """The age of a key is the number of keys from it to this end."""
    counted: IdRanges | None
    """The keys that count; None: all."""

    def __call__(self, ids: Tensor) -> Tensor:
        """Return what is added to the scores of ids, float32 of the same shape."""
        ages = self.end - (ids if self.counted is None else self.counted.positions(ids))
        return log_weights((ages.float() / self.step).clamp(min=1), self.decay)
