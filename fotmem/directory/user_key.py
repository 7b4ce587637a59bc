"""A secret of this user: with it, files that this user's fotmem wrote are known again."""

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

from fotmem.disk.durable_files import read_file
from fotmem.files import cache_folder

SIZE = 32
"""Bytes of the secret."""


def seal_of(data: bytes) -> str:
    """Return an HMAC-SHA256 of bytes by this user's secret, in hexadecimal.

    Empty if there is no place for a secret, such as a home folder that cannot be written to.
    """
    key = _user_key()
    return hmac.new(key, data, hashlib.sha256).hexdigest() if key else ""


def has_seal(data: bytes, seal: str) -> bool:
    """Return whether `seal_of` gave this seal to these bytes, for this user."""
    return bool(seal) and hmac.compare_digest(seal_of(data), seal)


def _user_key() -> bytes:
    """Read the secret; make one if there is none."""
    path = cache_folder("keys") / "indexes"
    try:
        with suppress(FileNotFoundError):
            key = read_file(path, SIZE)
            if len(key) == SIZE:
                return key
        return _new_key(path)
    except OSError:
        return b""


def _new_key(path: Path) -> bytes:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(secrets.token_hex(16))
    try:
        file = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "wb") as new:
            new.write(secrets.token_bytes(SIZE))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return read_file(path, SIZE)  # another process may have made one at the same time
