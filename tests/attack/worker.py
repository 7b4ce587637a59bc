"""Attacks in a process of its own, which may hang, be killed or run out of memory."""

import gc
import os
import shutil
import signal
import tempfile
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

import torch

from tests.attack.originals import Originals
from tests.attack.outcome import FOUND, Outcome
from tests.attack.target import Target

STORE_KINDS = ("crash", "flip", "swap", "edit", "fill", "interrupt")
MEMORY_KINDS = ("rows", "reading", "compaction", "life")
KINDS = (*STORE_KINDS, *MEMORY_KINDS)
"""Attacks on a store, and on a memory's directory."""
NOT_OURS = ("pymp-", "torchinductor_")
"""Temporary folders that multiprocessing and torch keep while a process lives."""


def work(connection: Connection, target: Target, folder: Path) -> None:
    """Make the attacks that are asked for, until None comes."""
    os.setsid()  # Ctrl-C is for the process that asks
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    temporary = folder / "temporary"
    temporary.mkdir(exist_ok=True)
    tempfile.tempdir = str(temporary)
    originals = Originals(target, folder)
    while (asked := connection.recv()) is not None:
        connection.send(once(target, folder, originals, *asked))


def once(target: Target, folder: Path, originals: Originals, kind: str, seed: int) -> Outcome:
    """Make one attack in an empty folder; temporary files must be gone afterwards."""
    place, random = folder / "attack", Random(f"{kind} {seed}")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    outcome: Outcome = import_module(f"tests.attack.{kind}").attack(
        target, random, place, originals
    )
    gc.collect()
    left = [name for name in os.listdir(tempfile.gettempdir()) if not name.startswith(NOT_OURS)]
    for name in left:
        shutil.rmtree(Path(tempfile.gettempdir(), name), ignore_errors=True)
    if outcome.kind != FOUND and left:
        return Outcome(FOUND, outcome.tried, f"temporary files are left: {', '.join(left)}")
    return outcome
