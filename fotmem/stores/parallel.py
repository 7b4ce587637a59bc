"""Works on several heads at a time; lets threads search beside one that adds."""

import functools
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from fotmem.interrupts import interrupts_deferred

Result = TypeVar("Result")

PAUSE = 1e-4
"""Seconds between two looks at whether others are done."""


def over_heads(
    function: Callable[[int], Result], num_heads: int, threads: int | None = None
) -> list[Result]:
    """Call a function for every head, several at a time.

    For index libraries that search one head at a time and release the interpreter's lock
    meanwhile.

    Parameters
    ----------
    function : callable
        Takes the number of a head.
    num_heads : int
        Heads ``H``.
    threads : int, optional
        Calls at a time. Default: as many threads as torch uses.

    Returns
    -------
    list
        Its results, by head.

    Examples
    --------
    >>> over_heads(lambda head: head * head, 3)
    [0, 1, 4]
    """
    threads = threads or torch.get_num_threads()
    if threads == 1 or num_heads == 1:
        return [function(head) for head in range(num_heads)]
    with interrupts_deferred():  # none may still work on an index that then changes
        calls = [_pool(threads).submit(function, head) for head in range(num_heads)]
        wait(calls)
    return [call.result() for call in calls]


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="fotmem")


if hasattr(os, "register_at_fork"):  # a forked process has the pool, but not its threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


class ReadWriteLock:
    """Lets many threads read at a time, or one write alone.

    For index libraries whose index may be searched by several threads, but not while it grows. It
    is made of a flag and a set, each changed in one step, not of locks: whatever interrupts a
    reader or a writer, at any line, nothing stays locked.
    """

    def __init__(self) -> None:
        self._readers: set[object] = set()
        self._writing = False

    def reading(self, read: Callable[[], Result]) -> Result:
        """Wait for the writer to end, and keep writers out while `read` is called."""
        me = object()
        try:
            try:
                self._enter(me)
                return read()
            finally:
                self._readers.discard(me)
        finally:  # once more: Ctrl-C may have come in between
            self._readers.discard(me)

    def _enter(self, me: object) -> None:
        while True:
            while self._writing:
                time.sleep(PAUSE)
            self._readers.add(me)
            if not self._writing:
                return
            self._readers.discard(me)  # it came first

    def writing(self, write: Callable[[], Result]) -> Result:
        """Wait for readers to end, and keep them out while `write` is called.

        One thread at a time may call it.
        """
        try:
            try:
                self._writing = True
                while self._readers:
                    time.sleep(PAUSE)
                return write()
            finally:
                self._writing = False
        finally:
            self._writing = False
