"""Work on several heads at a time, and many searching threads beside one that adds."""

import functools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Result = TypeVar("Result")


def over_heads(
    function: Callable[[int], Result], num_heads: int, threads: int | None = None
) -> list[Result]:
    """Call a function for every head, several at a time.

    For index libraries that search one head at a time and let go of the interpreter's lock while
    they do.

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
        What it returned, by head.

    Examples
    --------
    >>> over_heads(lambda head: head * head, 3)
    [0, 1, 4]
    """
    threads = threads or torch.get_num_threads()
    if threads == 1 or num_heads == 1:
        return [function(head) for head in range(num_heads)]
    return list(_pool(threads).map(function, range(num_heads)))


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="fotmem")


if hasattr(os, "register_at_fork"):  # a forked process has the pool, but not its threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


class ReadWriteLock:
    """Lets many read at a time, or one write alone.

    For index libraries whose index may be searched by several threads, but not while it grows.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()  # entered by itself, which is quicker than by the condition
        self._changed = threading.Condition(self._mutex)
        self._readers = 0
        self._writers = 0  # waiting or at work

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Wait for writers to end, and keep them out."""
        with self._mutex:
            while self._writers:
                self._changed.wait()
            self._readers += 1
        try:
            yield
        finally:
            with self._mutex:
                self._readers -= 1
                if not self._readers:
                    self._changed.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Wait for readers to end, and keep them out; for one writer at a time."""
        with self._changed:
            self._writers += 1
            while self._readers:
                self._changed.wait()
        try:
            yield
        finally:
            with self._changed:
                self._writers -= 1
                self._changed.notify_all()
