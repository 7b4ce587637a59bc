"""On what was measured."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("torch", "transformers", "faiss-cpu", "hnswlib", "zarr")


def machine() -> dict[str, str]:
    """Describe the processor, the threads and the versions that measure."""
    threads, cores = torch.get_num_threads(), len(os.sched_getaffinity(0))
    found = {"processor": _processor(), "threads": f"{threads} of torch on {cores} cores"}
    found["python"] = platform.python_version()
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def resident(kind: str = "VmRSS") -> int:
    """Return the bytes of this process in memory, or with ``VmHWM`` the most so far; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(kind))


def _processor() -> str:
    """Return its name; only Linux has this file."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
