"""Faults that change settings of the whole process."""

import io
import locale
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fotmem.stores import Hits, MemoryStore
from tests.broken_stores.registry import caught_by
from tests.plain_stores import PlainStore


def disturbing(message: str) -> Callable[[type[MemoryStore]], type[MemoryStore]]:
    """Register a store that only this test may search, since it restores what the store changes."""
    return caught_by("nothing_global_changes", message=message, passes=("closing_twice",))


class Disturbing(PlainStore):
    def disturb(self) -> None:
        raise NotImplementedError

    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        self.disturb()
        return super().search_rows(queries, top_k)


@disturbing("changed the state of torch's random numbers")
class RandomNumbersBeginAnew(Disturbing):
    def disturb(self) -> None:
        torch.manual_seed(0)


@disturbing(r"changed torch\.get_num_threads\(\), from 3 to 1")
class ThreadsAreTakenAway(Disturbing):
    def disturb(self) -> None:
        torch.set_num_threads(1)


@disturbing(r"changed torch\.is_grad_enabled\(\)")
class GradientsAreSwitchedOff(Disturbing):
    def disturb(self) -> None:
        torch.set_grad_enabled(False)


@disturbing("changed the environment variable OMP_WAIT_POLICY")
class EnvironmentIsChanged(Disturbing):
    def disturb(self) -> None:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@disturbing("changed the environment variable PATH")
class PathIsLost(Disturbing):
    def disturb(self) -> None:
        os.environ["PATH"] = "/nowhere"


@disturbing("changed the warning filters")
class WarningsAreIgnored(Disturbing):
    def disturb(self) -> None:
        warnings.simplefilter("ignore")


@disturbing("wrote to stdout: 'searching")
class Chatty(Disturbing):
    def disturb(self) -> None:
        print("searching")


@disturbing("wrote to stderr: 'searching")
class ChattyFromC(Disturbing):
    def disturb(self) -> None:
        os.write(2, b"searching\n")


@disturbing(r"changed sys\.stdout")
class OutputIsReplaced(Disturbing):
    def disturb(self) -> None:
        sys.stdout = io.StringIO()


@disturbing("changed the current folder")
class FolderIsChanged(Disturbing):
    def disturb(self) -> None:
        os.chdir("/")


@disturbing("changed files in the current folder")
class FilesAreLeftInTheFolder(Disturbing):
    def disturb(self) -> None:
        open("index.bin", "wb").close()


@disturbing("changed what SIGINT does")
class CtrlCIsIgnored(Disturbing):
    def disturb(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@disturbing("changed the locale")
class LocaleIsSet(Disturbing):
    def disturb(self) -> None:
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")


@disturbing(r"changed torch\.get_default_dtype\(\)")
class DefaultDtypeIsSet(Disturbing):
    def disturb(self) -> None:
        torch.set_default_dtype(torch.float32)


@disturbing(r"changed numpy\.geterr\(\)")
class NumpyIsSilenced(Disturbing):
    def disturb(self) -> None:
        np.seterr(all="ignore")


@disturbing("changed the level of logging")
class LoggingIsSilenced(Disturbing):
    def disturb(self) -> None:
        logging.root.setLevel(logging.ERROR)
