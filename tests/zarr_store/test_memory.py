"""What the `zarr` store takes in memory, seen from outside."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MIB = 2**20
MEASURED = """
import re, torch
from fotmem import create_store
torch.set_num_threads(1)
torch.manual_seed(0)

def status(name):
    with open("/proc/self/status") as file:
        return 1024 * int(re.search(rf"{name}:\\s+(\\d+) kB", file.read())[1])

keys, values = torch.randn(2, 4, 1024, 64)

def use(store, times):
    for turn in range(times):
        store.add(keys.normal_(), values.normal_())
        if turn % 16 == 15:
            store.attend(keys[:, :8], top_k=8, scale=0.1)

with create_store("zarr", num_heads=4, head_dim=64, ram=2**20) as store:
    use(store, 16)  # imports and what torch and zarr hold on to
before = status("RssAnon")
with create_store("zarr", num_heads=4, head_dim=64, ram=32 * 2**20) as store:
    use(store, 160)
    print(2 * store.next_id * 4 * 64 * 4, end=" ")
# Not ru_maxrss, which a process inherits from the one that started it; and without what lies in
# files: how much of a library is mapped at once depends on what else the system reads.
print(status("VmHWM") - status("RssFile") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.thorough
def test_ten_times_the_budget_is_held_within_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURED],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        # Or each thread's malloc keeps some for itself.
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},
    )
    data, grown = map(int, done.stdout.split())
    assert data == 10 * 32 * MIB
    assert grown < 1.25 * 32 * MIB  # malloc differs from machine to machine
