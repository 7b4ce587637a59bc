"""The manifest of a store's directory, as JSON with a checksum."""

import hashlib
import json
from typing import Any, NamedTuple


class LayerKind(NamedTuple):
    """Format of a directory, and the layer that it belongs to."""

    format: str
    num_heads: int
    head_dim: int
    dtype: str

    def __str__(self) -> str:
        """Describe it for messages."""
        return f"{self.format} with H={self.num_heads} heads of D={self.head_dim} in {self.dtype}"


class DirectoryManifest(NamedTuple):
    """What a directory holds."""

    kind: LayerKind
    next: int
    """Number of the next file."""
    files: dict[str, str]
    """Names, and the checksums of the contents."""
    facts: dict[str, Any]
    """The store's own."""

    def encode(self) -> bytes:
        """Return it as JSON, with its checksum."""
        content = {**self._asdict(), "kind": self.kind._asdict()}
        return json.dumps({**content, "checksum": _checksum_of(content)}, indent=1).encode()

    @classmethod
    def decode(cls, data: bytes) -> "DirectoryManifest":
        """Read what `encode` returned; raise `ValueError` if it is anything else."""
        try:
            content = json.loads(data)
            checksum = content.pop("checksum")
            kind = LayerKind(**content["kind"])
            manifest = cls(**{**content, "kind": kind})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError("it is not a manifest") from error
        if checksum != _checksum_of(content):
            raise ValueError("its checksum differs")
        return manifest


def checksum(data: bytes) -> str:
    """Compute the SHA-256 of a file's content."""
    return hashlib.sha256(data).hexdigest()


def _checksum_of(content: dict[str, Any]) -> str:
    return checksum(json.dumps(content, sort_keys=True).encode())
