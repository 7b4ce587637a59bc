"""A call that waits forever is reported; a call that a busy machine runs slowly is not."""

import threading
import time

import pytest

from fotmem.testing.store import waiting


def test_a_call_that_waits_forever_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "STILL", 1)
    never = threading.Event()
    thread = threading.Thread(target=never.wait, daemon=True)
    thread.start()
    assert not waiting.ended(thread)
    never.set()
    assert waiting.ended(thread)


def test_a_busy_thread_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks are so short here that many of them pass before it is done."""
    monkeypatch.setattr(waiting, "STILL", 1)
    monkeypatch.setattr(waiting, "IDLE", -1.0)  # though a busy machine may let it do nothing
    looks: list[float] = []

    def look(seconds: float) -> bool:
        looks.append(seconds)
        return len(looks) == 50

    assert waiting.awaited(look)
    monkeypatch.setattr(waiting, "LONGEST", 10)
    assert not waiting.awaited(lambda seconds: False)


def test_nothing_is_done_while_all_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "STILL", 3)
    looks: list[float] = []

    def sleep(seconds: float) -> bool:
        looks.append(seconds)
        time.sleep(0.01)
        return False

    assert not waiting.awaited(sleep)
    assert len(looks) >= 3
