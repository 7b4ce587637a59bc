"""What a call of the model keeps of its last step, to explain it later.

A call belongs to the thread or asyncio task that made it, and so does its trace. A context variable
holds it. Contexts are copied: to tasks that begin, which have calls of their own, and to threads
that ``asyncio.to_thread`` uses for a task, whose calls are those of the task.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import WeakKeyDictionary

from torch import Tensor

from fotmem.memory.options import MemoryOptions
from fotmem.memory.view import SeenMemory


class TracedLayer(NamedTuple):
    """What a memory layer asked."""

    asked: Tensor
    """Queries for memory, ``[B, H * G, T, D]``."""
    queries: Tensor
    """Queries for the local context and for recent tokens, of the same shape."""
    lse: Tensor
    """Log-sum-exp over everything, ``[B, H * G, T]``."""


@dataclass
class Trace:
    """The queries of a call's last step, and how they looked at memory."""

    real: Tensor
    """Shape ``[B, T]``, bool: which positions of the step are not padding."""
    options: MemoryOptions
    """How the first row looked at memory in that step."""
    seen: list[list[SeenMemory]]
    """The memories of every batch row, in their order."""
    layers: dict[int, TracedLayer] = field(default_factory=dict)
    """By memory layer."""

    def last(self, row: int) -> int:
        """Return the last position of a batch row that is not padding; -1 if there is none."""
        positions = self.real[row].nonzero()
        return int(positions[-1]) if len(positions) else -1


class _Calls:
    """The last calls of models, in one thread or asyncio task."""

    def __init__(self, caller: object) -> None:
        self.traces: WeakKeyDictionary[object, Trace] = WeakKeyDictionary()
        self.is_of_task = isinstance(caller, asyncio.Task)
        self._caller = weakref.ref(caller)

    def include(self, caller: object) -> bool:
        """Whether calls of a thread or task count as these: a task sends calls to threads."""
        in_thread = isinstance(caller, threading.Thread)
        return self._caller() is caller or (self.is_of_task and in_thread)


_CALLS: ContextVar[_Calls | None] = ContextVar("fotmem_calls", default=None)


def own_calls() -> None:
    """Begin to keep the traces of this thread or task, also of calls that it sends to a thread."""
    _own_calls()


def last_trace(model: object) -> Trace | None:
    """Return the trace of a model's last call in this thread or task."""
    calls = _CALLS.get()
    return calls.traces.get(model) if calls is not None and calls.include(_caller()) else None


def keep_trace(model: object, trace: Trace) -> None:
    """Make this the trace of a model's last call in this thread or task, and in no other."""
    _own_calls().traces[model] = trace


def _own_calls() -> _Calls:
    calls, caller = _CALLS.get(), _caller()
    if calls is None or not calls.include(caller):
        calls = _Calls(caller)
        _CALLS.set(calls)
    return calls


def _caller() -> object:
    """Return the running task; outside of tasks, the thread."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop runs in this thread
        task = None
    return threading.current_thread() if task is None else task
