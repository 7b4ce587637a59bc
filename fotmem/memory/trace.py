"""What a call of the model keeps of its last step, to explain it later.

A call belongs to the thread or asyncio task that made it: so does its trace, a context variable.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from torch import Tensor

from fotmem.memory.options import MemoryOptions
from fotmem.memory.view import SeenMemory


@dataclass
class Trace:
    """The queries of a call's last step, and how they looked at memory."""

    real: Tensor
    """Shape ``[B, T]``, bool: which positions of the step are not padding."""
    options: MemoryOptions
    """How the first row looked at memory in that step."""
    seen: list[list[SeenMemory]]
    """The memories of every batch row, in their order."""
    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Per memory layer: queries ``[B, H * G, T, D]`` and total lse ``[B, H * G, T]``."""

    def last(self, row: int) -> int:
        """Return the last position of a batch row that is not padding; -1 if there is none."""
        positions = self.real[row].nonzero()
        return int(positions[-1]) if len(positions) else -1


_TRACES: ContextVar[WeakKeyDictionary[object, Trace]] = ContextVar("fotmem_traces")


def last_trace(model: object) -> Trace | None:
    """Return the trace of a model's last call in this thread or task."""
    traces = _TRACES.get(None)
    return None if traces is None else traces.get(model)


def keep_trace(model: object, trace: Trace) -> None:
    """Make this the trace of a model's last call in this thread or task, and in no other."""
    traces = WeakKeyDictionary(_TRACES.get(None) or {})  # a task that began here has it, too
    traces[model] = trace
    _TRACES.set(traces)
