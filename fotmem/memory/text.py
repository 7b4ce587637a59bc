"""What a memory has read: tokens, the characters that they cover, and documents."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from fotmem.directory.facts import DocumentEntry
from fotmem.errors import OptionError, shown
from fotmem.memory.text_to_read import TokenRows
from fotmem.stores.id_ranges import END_OF_IDS, IdRanges


@dataclass(frozen=True)
class MemoryDocument:
    """A text that a memory has read."""

    name: str
    """Empty for a text that was read without a name."""
    first: int
    """Id of its first token."""
    tokens: int
    """How many tokens were read of it."""
    characters: int | None
    """Length of its text; None where only token ids were read."""
    sha256: str
    """Of its text in UTF-8; where only token ids are known, of these (int64, little endian)."""
    read_at: datetime.datetime
    """When the reading began."""
    is_complete: bool
    """False: the reading has not come to its end."""

    @classmethod
    def of(cls, entry: DocumentEntry) -> Self:
        """Take over what a directory states."""
        return cls(
            name=entry.name,
            first=entry.first,
            tokens=len(entry),
            characters=entry.characters,
            sha256=entry.sha256,
            read_at=datetime.datetime.fromisoformat(entry.read_at),
            is_complete=entry.is_complete,
        )


class RememberedText:
    """Tokens and documents, in the order of reading."""

    def __init__(self) -> None:
        self.documents: list[DocumentEntry] = []
        self._rows: list[TokenRows] = []
        self._shown: tuple[int, IdRanges | None] = (0, None)

    def __len__(self) -> int:
        """Count the tokens."""
        return self._shown[0]

    @property
    def visible(self) -> IdRanges | None:
        """The ids that were not removed, and all that may come; None: all."""
        return self._shown[1]

    @property
    def shown(self) -> tuple[int, IdRanges | None]:
        """How many tokens there are, and those that are visible: of one moment."""
        return self._shown

    def count_visible(self) -> int:
        """Count the tokens that were not removed."""
        length, visible = self._shown
        return length if visible is None else len(visible.within(0, length))

    @property
    def ids(self) -> Tensor:
        """All token ids, int64 ``[N]``."""
        return self.rows(0, len(self)).ids

    def rows(self, start: int, stop: int) -> TokenRows:
        """Return the tokens from `start` to before `stop`."""
        if len(self._rows) > 1:
            self._rows = [TokenRows(*(torch.cat(each) for each in zip(*self._rows, strict=True)))]
        if not self._rows:
            empty = torch.zeros(0, dtype=torch.long)
            return TokenRows(empty, empty, empty)
        return TokenRows(*(each[start:stop] for each in self._rows[0]))

    def copy(self) -> Self:
        """Return an equal text that grows independently."""
        twin = type(self)()
        twin.documents, twin._rows = list(self.documents), list(self._rows)
        twin._shown = self._shown
        return twin

    def begin(self, name: str, sha256: str, characters: int | None) -> None:
        """Let the tokens that follow belong to a new document."""
        now = datetime.datetime.now(datetime.UTC)
        self.documents.append(
            DocumentEntry(
                name=name,
                first=len(self),
                stop=len(self),
                sha256=sha256,
                characters=characters,
                read_at=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
                is_complete=False,
                is_removed=False,
            )
        )

    def append(self, rows: TokenRows) -> None:
        """Add tokens to the last document."""
        self._rows.append(rows)
        length = len(self) + len(rows.ids)
        self._change_last(stop=length)
        self._shown = (length, self.visible)

    def extend(self, rows: TokenRows, documents: Sequence[DocumentEntry]) -> None:
        """Add tokens; `documents` are those of the whole text then."""
        self._rows.append(rows)
        self.documents = list(documents)
        self._shown = (len(self) + len(rows.ids), self._visible())

    def end(self) -> None:
        """Note that all tokens of the last document are there."""
        self._change_last(is_complete=True)

    def find(self, name: str) -> DocumentEntry | None:
        """Return the document of this name, unless it was removed."""
        named = (each for each in self.documents if each.name == name and not each.is_removed)
        return next(named, None) if name else None

    def remove(self, document: DocumentEntry) -> int:
        """Hide a document from all searches; return its place among the documents."""
        place = next(n for n, each in enumerate(self.documents) if each is document)
        self.documents[place] = document.model_copy(update={"is_removed": True})
        self._shown = (len(self), self._visible())
        return place

    def restore(self, place: int, document: DocumentEntry) -> None:
        """Show a document again, whose removal could not be committed."""
        self.documents[place] = document
        self._shown = (len(self), self._visible())

    def require(self, names: Collection[str]) -> None:
        """Raise `OptionError` if there is no document of one of these names."""
        if wrong := [name for name in names if not isinstance(name, str)]:
            raise OptionError(f"a document is named by a string, got {shown(wrong[0])}")
        known = {each.name for each in self.documents if each.name and not each.is_removed}
        for name in names:
            if name not in known:
                raise OptionError.unknown(name, "the memory", known, kind="document")

    def ids_of(self, names: Container[str]) -> IdRanges:
        """Return the ids of the documents of these names."""
        return IdRanges(
            (each.first, each.stop)
            for each in self.documents
            if each.name in names and not each.is_removed
        )

    def _visible(self) -> IdRanges | None:
        removed = [(each.first, each.stop) for each in self.documents if each.is_removed]
        return IdRanges(removed).complement(0, END_OF_IDS) if removed else None

    def take(self, other: RememberedText, start: int, stop: int) -> None:
        """Append tokens of another text, with their documents; one that is cut loses its name."""
        offset = len(self) - start
        for document in other.documents:
            first, end = max(document.first, start), min(document.stop, stop)
            if first < end:
                whole = end - first == len(document)
                changes: dict[str, Any] = {"first": first + offset, "stop": end + offset}
                changes |= {} if whole else {"name": ""}
                self.documents.append(document.model_copy(update=changes))
        self._rows.append(other.rows(start, stop))
        self._shown = (len(self) + stop - start, self._visible())

    def _change_last(self, **changes: Any) -> None:
        self.documents[-1] = self.documents[-1].model_copy(update=changes)
