"""Stores that change what belongs to the whole process."""

import locale
import logging
import os
import signal
import sys
import warnings

import numpy as np
import torch
from torch import Tensor

from fotmem.stores import Hits
from tests.broken_stores.registry import caught_by
from tests.plain_stores import PlainStore


class Disturbing(PlainStore):
    def disturb(self) -> None:
        raise NotImplementedError

    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        self.disturb()
        return super().search_rows(queries, top_k)


@caught_by("nothing_global_changes", told="changed the state of torch's random numbers")
class RandomNumbersBeginAnew(Disturbing):
    def disturb(self) -> None:
        torch.manual_seed(0)


@caught_by("nothing_global_changes", told=r"changed torch\.get_num_threads\(\), from 3 to 1")
class ThreadsAreTakenAway(Disturbing):
    def disturb(self) -> None:
        torch.set_num_threads(1)


@caught_by("nothing_global_changes", told=r"changed torch\.is_grad_enabled\(\)")
class GradientsAreSwitchedOff(Disturbing):
    def disturb(self) -> None:
        torch.set_grad_enabled(False)


@caught_by("nothing_global_changes", told="changed the environment variable OMP_WAIT_POLICY")
class EnvironmentIsChanged(Disturbing):
    def disturb(self) -> None:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@caught_by("nothing_global_changes", told="changed the environment variable PATH")
class PathIsLost(Disturbing):
    def disturb(self) -> None:
        os.environ["PATH"] = "/nowhere"


@caught_by("nothing_global_changes", told="changed the warning filters")
class WarningsAreIgnored(Disturbing):
    def disturb(self) -> None:
        warnings.simplefilter("ignore")


@caught_by("nothing_global_changes", told="wrote to stdout: 'searching")
class Chatty(Disturbing):
    def disturb(self) -> None:
        print("searching")


@caught_by("nothing_global_changes", told="wrote to stderr: 'searching")
class ChattyFromC(Disturbing):
    def disturb(self) -> None:
        os.write(2, b"searching\n")


@caught_by("nothing_global_changes", told=r"changed sys\.stdout")
class OutputIsReplaced(Disturbing):
    def disturb(self) -> None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


@caught_by("nothing_global_changes", told="changed the current folder")
class FolderIsChanged(Disturbing):
    def disturb(self) -> None:
        os.chdir("/")


@caught_by("nothing_global_changes", told="changed files in the current folder")
class FilesAreLeftInTheFolder(Disturbing):
    def disturb(self) -> None:
        open("index.bin", "wb").close()


@caught_by("nothing_global_changes", told="changed what SIGINT does")
class CtrlCIsIgnored(Disturbing):
    def disturb(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@caught_by("nothing_global_changes", told="changed the locale")
class LocaleIsSet(Disturbing):
    def disturb(self) -> None:
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")


@caught_by("nothing_global_changes", told=r"changed torch\.get_default_dtype\(\)")
class DefaultDtypeIsSet(Disturbing):
    def disturb(self) -> None:
        torch.set_default_dtype(torch.float32)


@caught_by("nothing_global_changes", told=r"changed numpy\.geterr\(\)")
class NumpyIsSilenced(Disturbing):
    def disturb(self) -> None:
        np.seterr(all="ignore")


@caught_by("nothing_global_changes", told="changed the level of logging")
class LoggingIsSilenced(Disturbing):
    def disturb(self) -> None:
        logging.root.setLevel(logging.ERROR)
