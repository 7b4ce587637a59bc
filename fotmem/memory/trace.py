"""What a call of the model keeps of its last step, to explain it later."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from fotmem.memory.options import MemoryOptions
from fotmem.stores.id_ranges import IdRanges


@dataclass
class Trace:
    """The queries of a call's last step, and how they looked at memory."""

    real: Tensor
    """Shape ``[B, T]``, bool: which positions of the step are not padding."""
    options: MemoryOptions
    """How memory was looked at in that step."""
    among: IdRanges | None = None
    """The ids that memory layers could find; None: all."""
    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Per memory layer: queries ``[B, H * G, T, D]`` and total lse ``[B, H * G, T]``."""

    def last(self, row: int) -> int:
        """Return the last position of a batch row that is not padding; -1 if there is none."""
        positions = self.real[row].nonzero()
        return int(positions[-1]) if len(positions) else -1
