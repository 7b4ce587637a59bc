"""Where fotmem keeps what can be made anew."""

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """Name a folder of ``$XDG_CACHE_HOME/fotmem`` (``~/.cache``); it need not be there."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "fotmem" / name
