"""Describes the machine and the versions of a measurement."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fotmem.errors import require_packages

PACKAGES = (
    "fotmem",
    "torch",
    "transformers",
    "peft",
    "faiss-cpu",
    "faiss-gpu-cu12",
    "hnswlib",
    "numba",
    "zarr",
)


def describe_machine() -> dict[str, Any]:
    """Describe this machine: system, processor, usable cores, threads, GPU."""
    import torch

    return {
        "platform": platform.platform(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Return the versions of Python and of the installed packages."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """Return the name of the processor, if the system has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")


def resident() -> int:
    """Return the bytes of memory of this process, without pages of files where they are counted.

    The system takes pages of files back when it needs them; if they were counted, a store on disk
    would seem to fill all free memory. Freed memory that glibc keeps is not counted either: the
    next user, such as the store of another layer, would get it. Needs psutil.
    """
    require_packages("the memory of a process", "psutil")
    import psutil

    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    memory = psutil.Process().memory_info()
    return int(memory.rss - getattr(memory, "shared", 0))
