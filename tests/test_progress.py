"""How far long work is, told on stderr and in the log. The clock stands still unless moved."""

import logging
from collections.abc import Callable
from contextlib import suppress

import pytest

from fotmem import progress
from fotmem.progress import progress_told, spans_told, tracked

Capture = pytest.CaptureFixture[str]
Log = pytest.LogCaptureFixture
Pass = Callable[[float], None]


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def let_pass(monkeypatch: pytest.MonkeyPatch) -> Pass:
    """Return a function that lets seconds pass."""
    now = [0.0]

    def let_pass(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    return let_pass


def test_a_line_now_and_then(let_pass: Pass, capsys: Capture) -> None:
    with progress_told("reading", 4000, "tokens") as tell:
        for step in range(1, 41):  # 100 tokens in a second
            let_pass(1)
            tell(100 * step)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "reading: 1,000 of 4,000 tokens, 100 a second, 0:00:30 left",
        "reading: 2,000 of 4,000 tokens, 100 a second, 0:00:20 left",
        "reading: 3,000 of 4,000 tokens, 100 a second, 0:00:10 left",
        "reading: 4,000 of 4,000 tokens, 100 a second, 0:00:00 left",
        "reading: 4,000 of 4,000 tokens, done in 0:00:40",
    ]


def test_steps_that_take_long_are_each_told(let_pass: Pass, capsys: Capture) -> None:
    for _ in tracked("measuring", range(3), 3, "trials"):
        let_pass(3600)
    assert capsys.readouterr().err.splitlines()[::3] == [
        "measuring: 1 of 3 trials, 0.000278 a second, 2:00:00 left",
        "measuring: 3 of 3 trials, done in 3:00:00",
    ]


def test_short_work_is_not_told(let_pass: Pass, capsys: Capture) -> None:
    for _ in spans_told("reading", [range(5000), range(5000, 9000)], shown=True):
        let_pass(4.9)
    assert capsys.readouterr().err == ""


def test_a_text_stays_beside_it(let_pass: Pass, capsys: Capture) -> None:
    with progress_told("selecting", None) as tell:
        tell(0, "exact, layer [17]")
        for _ in range(3):
            let_pass(6)
            tell(0)
    assert capsys.readouterr().err.splitlines() == [
        "selecting: for 0:00:12, exact, layer [17]",
        "selecting: done in 0:00:18, exact, layer [17]",
    ]


def test_what_was_done_before_is_not_in_the_rate(let_pass: Pass, capsys: Capture) -> None:
    with progress_told("training", 100, "steps", done=90) as tell:
        let_pass(20)
        tell(95)
        tell(92)
        let_pass(20)
        tell(92)
    assert [line[:35] for line in capsys.readouterr().err.splitlines()[:2]] == [
        "training: 95 of 100 steps, 0.25 a s",
        "training: 95 of 100 steps, 0.125 a ",
    ]


def test_what_fails_is_not_done(let_pass: Pass, capsys: Capture) -> None:
    with suppress(KeyboardInterrupt), progress_told("reading", 9, "tokens") as tell:
        let_pass(11)
        tell(3)
        raise KeyboardInterrupt
    assert "done" not in capsys.readouterr().err


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("shown", [True, False])
def test_the_log_has_the_lines(
    terminal: bool,
    shown: bool,
    let_pass: Pass,
    capsys: Capture,
    caplog: Log,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    with (
        caplog.at_level(logging.INFO, "fotmem"),
        progress_told("[b]opening", 5000, "tokens", shown=shown) as tell,
    ):
        let_pass(10)
        tell(2500, "[i]")
    said = "[b]opening: 2,500 of 5,000 tokens, 250 a second, 0:00:10 left, [i]"
    assert caplog.record_tuples[0] == ("fotmem.progress", logging.INFO, said)
    out, err = capsys.readouterr()
    assert out == ""
    assert (said in err) == (shown and not terminal)
    assert ("━" in err) == (shown and terminal)
    if shown and terminal:
        assert "[b]opening" in err
        assert "[i]" in err
