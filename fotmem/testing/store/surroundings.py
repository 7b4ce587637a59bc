"""Settings of the whole process, which a store must not change."""

import gc
import locale
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

_deterministic = torch.are_deterministic_algorithms_enabled


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _collect(enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()


Setting = tuple[str, Callable[[], Any], Callable[[Any], object], Any]
SETTINGS: tuple[Setting, ...] = (
    ("torch.get_num_threads()", torch.get_num_threads, torch.set_num_threads, 3),
    ("torch.is_grad_enabled()", torch.is_grad_enabled, torch.set_grad_enabled, True),
    ("torch.get_default_dtype()", torch.get_default_dtype, torch.set_default_dtype, torch.float64),
    (
        "torch.get_float32_matmul_precision()",
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
        "high",
    ),
    (
        "numpy.geterr()",
        np.geterr,
        lambda kept: np.seterr(**kept),
        {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"},
    ),
    ("the limit of recursion", sys.getrecursionlimit, sys.setrecursionlimit, 3_210),
    ("the interval of threads", sys.getswitchinterval, sys.setswitchinterval, 0.004),
    ("whether garbage is collected", gc.isenabled, _collect, True),
    ("the umask", _umask, os.umask, 0o27),
    (
        "the locale",
        lambda: locale.setlocale(locale.LC_ALL),
        lambda name: locale.setlocale(locale.LC_ALL, name),
        "C",
    ),
    ("the level of logging", lambda: logging.root.level, logging.root.setLevel, 35),
    ("logging.disable", lambda: logging.root.manager.disable, logging.disable, 0),
)
"""Name, function that reads it, function that sets it, and an unusual value."""
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)


@contextmanager
def unusual_surroundings(folder: Path) -> Iterator[None]:
    """Set unusual values, so that a store's changes show; restore the values afterwards.

    The environment becomes that of the start of the process, the current folder an empty one.
    """
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in _environment_at_start().items():
            patch.setenv(name, value)
        for name in set(os.environ) - set(_environment_at_start()):
            if not name.startswith("PYTEST_"):
                patch.delenv(name)
        for _, read, change, unusual in SETTINGS:
            stack.callback(change, read())
            change(unusual)
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                stack.callback(signal.signal, number, signal.getsignal(number) or signal.SIG_DFL)
                signal.signal(number, _ignored)
        yield


def surroundings() -> dict[str, object]:
    """Return everything that a store must not change, by name."""
    environment = {f"the environment variable {name}": os.environ[name] for name in os.environ}
    signals = {
        f"what {number.name} does": signal.getsignal(number)
        for number in signal.Signals
        if number in signal.valid_signals()
    }
    return {
        **{name: read() for name, read, _, _ in SETTINGS},
        **environment,
        **signals,
        "torch.are_deterministic_algorithms_enabled()": _deterministic(),
        "the current folder": str(Path.cwd()),
        "files in the current folder": sorted(path.name for path in Path.cwd().iterdir()),
        "the warning filters": list(warnings.filters),
        "warnings.showwarning": warnings.showwarning,
        "sys.stdout": sys.stdout,
        "sys.stderr": sys.stderr,
        "sys.path": list(sys.path),
        "sys.excepthook": sys.excepthook,
        "threading.excepthook": threading.excepthook,
        "the state of torch's random numbers": hash(torch.get_rng_state().numpy().tobytes()),
        "the state of numpy's random numbers": repr(np.random.get_state(legacy=False)),
        "the state of Python's random numbers": hash(random.getstate()),
    }


def _ignored(number: int, frame: object) -> None:
    """Do nothing."""


def _environment_at_start() -> dict[str, str]:
    """Return the environment at the start of this process; without ``/proc``, the current one."""
    try:
        content = Path("/proc/self/environ").read_bytes()
    except OSError:
        return dict(os.environ)
    pairs = (entry.partition(b"=") for entry in content.split(b"\0") if b"=" in entry)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}
