"""The process of one store: it builds the store, sends results and carries out orders.

The store has a process of its own, so that the memory of the process is the store's, and a store
that fails takes nothing else with it.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from fotmem.measure.bench.store_bench import StoreBench
from fotmem.measure.bench.store_job import StoreJob


def serve(connection: Connection, job: StoreJob, folder: str) -> None:
    """Build a store, with `folder` for its files, then carry out orders until one says stop.

    It sends the settings that the store can be tuned to, then a `SizeResult` for every size. An
    exception is sent too, and ends the process.
    """
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    with suppress(_GoneError):
        try:
            _work(connection, job, folder)
        except _GoneError:
            raise
        except Exception as error:
            _send(connection, RuntimeError(f"{type(error).__name__}: {error}"))


class _GoneError(Exception):
    """The other end of the connection is closed."""


def _work(connection: Connection, job: StoreJob, folder: str) -> None:
    if job.threads:
        torch.set_num_threads(job.threads)
    with StoreBench(job, Path(folder)) as bench:
        _send(connection, bench.settings)
        for result in bench.grow():
            _send(connection, result)
        while (order := _received(connection)) is not None:
            name, setting, arguments = order
            bench.tune(setting)
            _send(connection, getattr(bench, name)(*arguments))


def _end_with_parent(folder: str) -> None:
    """End as soon as the parent process has ended, for whatever reason."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)


def _send(connection: Connection, content: Any) -> None:
    """Send bytes: a tensor in shared memory could only be fetched while this process lives."""
    try:
        connection.send_bytes(pickle.dumps(content))
    except OSError as error:
        raise _GoneError from error


def _received(connection: Connection) -> Any:
    try:
        return connection.recv()
    except (EOFError, OSError) as error:
        raise _GoneError from error
