"""The memory of ``fotmem demo``: read the first time, opened from then on."""

import json
import shutil
import time
from typing import TYPE_CHECKING, Any

from fotmem.errors import StorageError
from fotmem.files import cache_folder, read_utf8, write_text

if TYPE_CHECKING:
    from fotmem.memory.memory import Memory

NAME = "the demo's text"


def demo_memory(
    llama: Any, store: str, text: list[int], *, overlap: int, **options: Any
) -> tuple["Memory", str]:
    """Open the memory that an earlier demo kept, or read the text and keep it.

    Returns
    -------
    tuple of Memory and str
        The memory, and a sentence about the time that this took.
    """
    folder = cache_folder("demo")
    begun = time.perf_counter()
    memory = _opened(llama, store, text, **options)
    if memory is not None:
        seconds = time.perf_counter() - begun
        before = json.loads(read_utf8(folder / "reading.json"))["seconds"]
        return memory, f"opened in {seconds:.1f} s; the first demo read it in {before:.1f} s"
    shutil.rmtree(folder, ignore_errors=True)
    from fotmem.memory.attachment import attach

    memory, begun = attach(llama, store, **options), time.perf_counter()
    memory.read(text, document=NAME, overlap=overlap, progress=True)
    seconds = time.perf_counter() - begun
    memory.save(folder / "memory")
    write_text(folder / "reading.json", json.dumps({"seconds": seconds}))
    return memory, f"read in {seconds:.1f} s, and kept in {folder}; run the demo again to open it"


def _opened(llama: Any, store: str, text: list[int], **options: Any) -> "Memory | None":
    """Open the memory that was kept, unless it is damaged, incomplete, or of something else."""
    from fotmem.memory.opening import open_memory

    folder = cache_folder("demo")
    if not (folder / "reading.json").is_file():
        return None
    try:
        memory = open_memory(folder / "memory", llama, store, **options)
    except StorageError:
        return None
    if memory.tokens.tolist() == text:
        return memory
    memory.close()
    return None
