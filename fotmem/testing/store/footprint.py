"""Measures the memory of a call's temporaries, and the memory that an object holds."""

import ctypes
import gc
import tracemalloc
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fotmem.testing.store.allocations import Allocations
from fotmem.testing.store.garbage import new_garbage_only

RESET = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")
MMAP_THRESHOLD = -3
"""glibc's number of the option."""


def peak_bytes(call: Callable[[], object]) -> int:
    """Measure the peak of what a call allocates, its result included.

    The largest of three measurements counts: torch's tensors in this thread, Python's and NumPy's
    memory, and, on Linux, the whole process (native libraries, other threads).
    """
    with new_garbage_only(), _traced():
        tracemalloc.reset_peak()
        before, traced = _resident("VmRSS"), tracemalloc.get_traced_memory()[0]
        reset = _reset_peak()
        with _large_blocks_mapped(), Allocations() as allocated:
            result = call()
        highest = _resident("VmHWM") - before if reset else 0
        traced = tracemalloc.get_traced_memory()[1] - traced
    del result
    return int(max(allocated.peak_bytes, traced, highest))


def written_bytes(call: Callable[[], object]) -> int:
    """Count the bytes that a call writes: into tensors, and into Python's and NumPy's memory."""
    with _traced():
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        with Allocations() as allocated:
            call()
        python = tracemalloc.get_traced_memory()[1] - before
        return int(allocated.bytes + allocated.written + python)


def kept_bytes(call: Callable[[], object], *, beside: object = None) -> int:
    """Measure the memory of tensors, Python and NumPy that is still held after a call.

    Memory of native libraries, files and tensors that `beside` refers to do not count.
    """
    known = _held(beside)
    with new_garbage_only():
        with _traced():
            before = tracemalloc.get_traced_memory()[0]
            call()
            gc.collect()
            python = tracemalloc.get_traced_memory()[0] - before
        found: dict[int, int] = {}
        for thing in gc.get_objects():
            if issubclass(type(thing), Tensor) and thing.layout == torch.strided:
                storage = thing.untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
    return python + sum(size for place, size in found.items() if place not in known)


@contextmanager
def _traced() -> Iterator[None]:
    """Trace Python's and NumPy's memory."""
    with Allocations():  # its first use imports much of torch
        torch.zeros(1)
    if tracemalloc.is_tracing():
        yield
        return
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def held_bytes(owner: object) -> int:
    """Sum the memory of all tensors and NumPy arrays that an object refers to.

    Shared memory counts once; memory of native libraries and files does not count.
    """
    return sum(_held(owner).values())


def _held(owner: object) -> dict[int, int]:
    """Find the tensors and arrays that an object refers to: addresses and bytes."""
    found: dict[int, int] = {}
    seen: set[int] = set()
    left = [owner]
    while left:
        thing = left.pop()
        if id(thing) in seen or isinstance(thing, _NOT_HELD):
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        elif isinstance(thing, np.ndarray):
            if thing.base is None:
                found[thing.ctypes.data] = thing.nbytes
            left.append(thing.base)
        left += gc.get_referents(thing)
    return found


_NOT_HELD = (
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.FrameType,
    np.memmap,
    torch.dtype,
)


@contextmanager
def _large_blocks_mapped() -> Iterator[None]:
    """Let glibc return large blocks at once: free memory between small blocks looks used."""
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        yield
        return
    set_option(MMAP_THRESHOLD, 2**17)
    try:
        yield
    finally:
        set_option(MMAP_THRESHOLD, 2**25)  # to where it grows by itself


def _reset_peak() -> bool:
    try:
        RESET.write_text("5", encoding="ascii")
    except OSError:
        return False
    return _resident("VmHWM") > 0


def _resident(name: str) -> int:
    """Current or peak memory of the process in bytes; 0 if the system does not report it."""
    try:
        lines = STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(name)), 0)
