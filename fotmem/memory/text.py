"""What a memory has read: tokens, the characters that they cover, and documents."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from fotmem.directory.facts import DocumentEntry

UNKNOWN = -1
"""In place of a character: the token's place in the document is not known."""


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


class TextToRead(NamedTuple):
    """A text as it goes into a memory."""

    ids: Tensor
    """Token ids, int64 ``[n]`` on CPU."""
    starts: Tensor
    """First character of each token in the document, int64 ``[n]``; -1: unknown."""
    stops: Tensor
    """Character after the last one of each token; -1: unknown."""
    name: str
    """Of the document; empty if it has none."""
    sha256: str
    """Of its text in UTF-8, or of its token ids where only they are known."""
    characters: int | None
    """Length of its text."""

    @classmethod
    def of_ids(cls, ids: Tensor, name: str = "") -> Self:
        """Take token ids of which nothing else is known."""
        unknown = torch.full_like(ids, UNKNOWN)
        sha256 = hashlib.sha256(ids.numpy().astype("<i8").tobytes()).hexdigest()
        return cls(ids, unknown, unknown, name, sha256, None)

    def rest(self, start: int) -> Self:
        """Return the text without its first tokens."""
        rows = (self.ids[start:], self.starts[start:], self.stops[start:])
        return type(self)(*rows, self.name, self.sha256, self.characters)

    def rows(self, start: int, stop: int) -> TokenRows:
        """Return some of its tokens."""
        return TokenRows(self.ids[start:stop], self.starts[start:stop], self.stops[start:stop])


class TokenRows(NamedTuple):
    """Token ids, and the characters that each token covers: int64 ``[n]`` each."""

    ids: Tensor
    starts: Tensor
    stops: Tensor


class RememberedText:
    """Tokens and documents, in the order of reading."""

    def __init__(self) -> None:
        self.documents: list[DocumentEntry] = []
        self._rows: list[TokenRows] = []
        self._length = 0

    def __len__(self) -> int:
        """Count the tokens."""
        return self._length

    @property
    def ids(self) -> Tensor:
        """All token ids, int64 ``[N]``."""
        return self.rows(0, self._length).ids

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
        twin._length = self._length
        return twin

    def begin(self, name: str, sha256: str, characters: int | None) -> None:
        """Let the tokens that follow belong to a new document."""
        now = datetime.datetime.now(datetime.UTC)
        self.documents.append(
            DocumentEntry(
                name=name,
                first=self._length,
                stop=self._length,
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
        self._length += len(rows.ids)
        self._change_last(stop=self._length)

    def extend(self, rows: TokenRows, documents: Sequence[DocumentEntry]) -> None:
        """Add tokens; `documents` are those of the whole text then."""
        self._rows.append(rows)
        self._length += len(rows.ids)
        self.documents = list(documents)

    def end(self) -> None:
        """Note that all tokens of the last document are there."""
        self._change_last(is_complete=True)

    def unfinished(self, text: TextToRead) -> DocumentEntry | None:
        """Return the last document if it is this one, and its reading did not come to its end."""
        last = self.documents[-1] if self.documents and text.name else None
        same = last is not None and (last.name, last.sha256) == (text.name, text.sha256)
        return last if same and last is not None and not last.is_complete else None

    def take(self, other: RememberedText, start: int, stop: int) -> None:
        """Append tokens of another text, with their documents; one that is cut loses its name."""
        offset = self._length - start
        for document in other.documents:
            first, end = max(document.first, start), min(document.stop, stop)
            if first < end:
                whole = end - first == len(document)
                changes: dict[str, Any] = {"first": first + offset, "stop": end + offset}
                changes |= {} if whole else {"name": ""}
                self.documents.append(document.model_copy(update=changes))
        self._rows.append(other.rows(start, stop))
        self._length += stop - start

    def _change_last(self, **changes: Any) -> None:
        self.documents[-1] = self.documents[-1].model_copy(update=changes)
