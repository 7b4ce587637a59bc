"""Tests of changes that Ctrl-C or an error stops."""

import functools
import threading
from collections.abc import Callable

import pytest

from fotmem.stores.store import MemoryStore
from fotmem.testing.store.expectations import fail, fault
from fotmem.testing.store.hits import expect_contents
from fotmem.testing.store.interrupting import (
    count_lines,
    ctrl_c,
    expect_to_end,
    raising,
    stopped,
)
from fotmem.testing.store.stores import Stores, pair

LINES = 24
"""Lines that are tried, at most, spread over the call."""
TOKENS, MORE, DROPPED = 40, 10, 15


class OnPurposeError(RuntimeError):
    """Raised in the middle of a store's method."""


class Interruptions:
    """Changes that are stopped."""

    @pytest.mark.parametrize("how", ["Ctrl-C", "an error"])
    def test_adding_is_all_or_nothing(self, stores: Stores, how: str) -> None:
        """If Ctrl-C or an error stops `add` at any line, it has added all keys or none."""
        keys, values = pair(TOKENS + 2 * MORE)

        def add(store: MemoryStore) -> None:
            begin = store.next_id
            store.add(keys[:, begin : begin + MORE], values[:, begin : begin + MORE])

        self._expect_whole(stores, how, add, "add_rows")

    @pytest.mark.parametrize("how", ["Ctrl-C", "an error"])
    def test_forgetting_is_all_or_nothing(self, stores: Stores, how: str) -> None:
        """If Ctrl-C or an error stops `forget` at any line, it has forgotten all keys or none."""

        def forget(store: MemoryStore) -> None:
            store.forget(DROPPED)

        self._expect_whole(stores, how, forget, "forget_rows")

    @staticmethod
    def _expect_whole(
        stores: Stores, how: str, change: Callable[[MemoryStore], None], inner: str
    ) -> None:
        __tracebackhide__ = True
        if how == "Ctrl-C" and threading.current_thread() is not threading.main_thread():
            pytest.skip("Ctrl-C arrives in the main thread, which this is not")
        keys, values = pair(TOKENS + 2 * MORE)
        stop = ctrl_c if how == "Ctrl-C" else raising(OnPurposeError("in the middle"))

        def begun() -> MemoryStore:
            return stores.filled(keys[:, :TOKENS], values[:, :TOKENS])

        def expect_state(store: MemoryStore) -> None:
            held = slice(store.first_id, store.next_id)
            if (held.start, held.stop) not in allowed:
                fail(f"it holds the ids {held.start} to {held.stop - 1}")
            expect_contents(store, keys[:, held], values[:, held], first_id=held.start)

        done = begun()
        lines = count_lines(functools.partial(change, done), inside={inner})
        allowed = {(0, TOKENS), (done.first_id, done.next_id)}
        stores.close(done)
        for line in range(0, lines, -(-lines // LINES) or 1):
            store = begun()
            ended = stopped(functools.partial(change, store), line, stop=stop, inside={inner})
            with fault(f"{how} in {ended.place} left a change half done"):
                expect_state(store)
                expect_to_end(functools.partial(change, store), "the next change")
                allowed = {(store.first_id, store.next_id)}
                expect_state(store)
            allowed = {(0, TOKENS), (done.first_id, done.next_id)}
            stores.close(store)
