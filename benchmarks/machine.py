"""On what was measured."""

import os
import platform
from pathlib import Path

import torch

from fotmem.machine import processor, versions

PACKAGES = ("torch", "transformers", "faiss-cpu", "hnswlib", "zarr")


def machine() -> dict[str, str]:
    """Describe the processor, the threads and the versions that measure."""
    threads, cores = torch.get_num_threads(), len(os.sched_getaffinity(0))
    return {
        "processor": processor() or platform.machine(),
        "threads": f"{threads} of torch on {cores} cores",
        **versions(PACKAGES),
    }


def resident(kind: str = "VmRSS") -> int:
    """Return the bytes of this process in memory, or with ``VmHWM`` the most so far; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(kind))
