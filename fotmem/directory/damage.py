"""What is damaged of a memory's directory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from fotmem.directory.facts import DocumentEntry
from fotmem.disk import Storage

REPAIR, REBUILD = "fotmem memory repair drops it", "it will be rebuilt"
MEND, RESTORE = "fotmem memory repair writes it again", "restore it from a copy"
"""What becomes of damage: rows, indexes, descriptions of folders, the manifest."""


@dataclass(frozen=True)
class Damage:
    """A chunk, or another part of a file, that is not as it was written."""

    problem: str
    """Names the file and the chunk, and what is wrong."""
    file: str
    """In the directory."""
    remedy: str
    group: str = ""
    """The folder of the rows that were written together; empty: it is not of rows."""
    first: int = 0
    """First token that is lost."""
    stop: int = 0
    """Token after the last one that is lost; `first` if none is."""

    @classmethod
    def of(
        cls, error: Exception, storage: Storage, file: str, group: str, first: int, stop: int
    ) -> Self:
        """Take over the error that reading rows has raised."""
        problem = str(error).removesuffix(f"; {storage.cure}")
        return cls(problem, file, REPAIR, group, first, stop)


@dataclass(frozen=True)
class Verified:
    """What a memory's directory holds, and what of it is damaged."""

    name: str
    """Of the directory."""
    tokens: int
    documents: tuple[DocumentEntry, ...]
    """Of the last commit; tokens and documents are not known where the manifest is damaged."""
    damages: tuple[Damage, ...]

    @property
    def lost(self) -> list[DocumentEntry]:
        """The documents that have damaged tokens, keys or values."""
        return documents_hit(self.documents, self.damages)


def documents_hit(
    documents: Sequence[DocumentEntry], damages: Sequence[Damage]
) -> list[DocumentEntry]:
    """Return the documents that have lost tokens and are needed."""
    spans = {(each.first, each.stop) for each in damages if each.first < each.stop}
    return [
        document
        for document in documents
        if document.is_needed
        and any(max(first, document.first) < min(stop, document.stop) for first, stop in spans)
    ]
