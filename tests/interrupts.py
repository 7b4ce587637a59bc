"""Sends Ctrl-C at each line that a call runs."""

import gc
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any


def at_every_line(call: Callable[[], Any], files: tuple[str, ...], step: int = 1) -> Iterator[bool]:
    """Run a call again and again, each time with Ctrl-C `step` lines later in these files.

    Yields whether the call came to its end all the same; stops when there are no lines left. The
    garbage collector waits: what a finalizer raises while it runs is lost in any Python program.
    """
    line = 0
    while True:
        left = [line]

        def trace(frame: FrameType, event: str, _: Any, left: list[int] = left) -> Any:
            if not frame.f_code.co_filename.endswith(files):
                return None
            if event == "line":
                left[0] -= 1
                if left[0] == -1:
                    signal.raise_signal(signal.SIGINT)
            return trace

        before = sys.gettrace()
        gc.disable()
        sys.settrace(trace)
        try:
            call()
            done = True
        except KeyboardInterrupt:
            done = False
        finally:
            sys.settrace(before)
            gc.enable()
        if left[0] >= 0:
            return
        yield done
        line += step
