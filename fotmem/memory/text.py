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
from fotmem.interrupts import interrupts_deferred
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
        """Let the tokens that follow belong to a new document.

        If there is one of its name, the new one is not there until it has ended.
        """
        now, replaces = datetime.datetime.now(datetime.UTC), self.find(name) is not None
        entry = DocumentEntry(
            name=name,
            first=len(self),
            stop=len(self),
            sha256=sha256,
            characters=characters,
            read_at=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            is_complete=False,
            is_removed=replaces,
            is_replacement=replaces,
        )
        self._put(_with(self.documents, [entry]))

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
        self._shown = (len(self) + len(rows.ids), _visible(documents))

    def end(self) -> None:
        """Note that all tokens of the last document are there; it replaces the one of its name."""
        if self.documents[-1].is_replacement:
            self._put(_ended(self.documents))
        else:
            self._change_last(is_complete=True)

    @property
    def shown_to_reading(self) -> tuple[int, IdRanges | None]:
        """How many tokens there are, and which are visible once the last document has ended."""
        length, visible = self._shown
        is_replacement = bool(self.documents) and self.documents[-1].is_replacement
        return length, _visible(_ended(self.documents)) if is_replacement else visible

    def find_stopped(self, name: str, sha256: str) -> DocumentEntry | None:
        """Return the last document if it is of this text, and its reading was stopped."""
        last = self.documents[-1] if name and self.documents else None
        if last is None or (last.name, last.sha256) != (name, sha256):
            return None
        return last if last.is_needed and not last.is_complete else None

    def find(self, name: str) -> DocumentEntry | None:
        """Return the document of this name, unless it was removed."""
        named = (each for each in self.documents if each.name == name and not each.is_removed)
        return next(named, None) if name else None

    def remove(self, name: str) -> list[DocumentEntry]:
        """Hide a document from all searches; return the documents that there were."""
        before = self.documents
        self._put(_without(before, name))
        return before

    def restore(self, documents: list[DocumentEntry]) -> None:
        """Show what there was again, after a removal that could not be committed."""
        self._put(documents)

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

    def take(self, other: RememberedText, start: int, stop: int) -> None:
        """Append tokens of another text, with their documents; one that is cut loses its name."""
        offset, taken = len(self) - start, []
        for document in other.documents:
            first, end = max(document.first, start), min(document.stop, stop)
            if first < end:
                whole = end - first == len(document)
                changes: dict[str, Any] = {"first": first + offset, "stop": end + offset}
                changes |= {} if whole else {"name": "", "is_replacement": False}
                taken.append(document.model_copy(update=changes))
        self.documents = _with(self.documents, taken)
        self._rows.append(other.rows(start, stop))
        self._shown = (len(self) + stop - start, _visible(self.documents))

    def cut_by(self, start: int, stop: int) -> DocumentEntry | None:
        """Return the document of which something remains around the tokens from start to stop."""
        return next(
            (
                each
                for each in self.documents
                if each.first <= start and stop <= each.stop and not each.is_removed
                if stop - start < len(each) and (start < stop or each.first < start < each.stop)
            ),
            None,
        )

    def join(self, first: int, stop: int) -> None:
        """Make one document without a name of all from `first` to before `stop`."""
        inside = [each for each in self.documents if first <= each.first and each.stop <= stop]
        if inside:
            begin = self.documents.index(inside[0])
            whole = inside[0].model_copy(update={"stop": stop, "name": ""})
            self._put([*self.documents[:begin], whole, *self.documents[begin + len(inside) :]])

    def _put(self, documents: list[DocumentEntry]) -> None:
        visible = _visible(documents)
        if visible == self.visible:  # calls that saw it can be explained as long as it is the same
            visible = self.visible
        with interrupts_deferred():
            self.documents, self._shown = documents, (len(self), visible)

    def _change_last(self, **changes: Any) -> None:
        self.documents[-1] = self.documents[-1].model_copy(update=changes)


def _visible(documents: Sequence[DocumentEntry]) -> IdRanges | None:
    """Return the ids that are not those of removed documents; None: all."""
    removed = [
        (each.first, END_OF_IDS if each.is_replacement else each.stop)  # it grows
        for each in documents
        if each.is_removed
    ]
    return IdRanges(removed).complement(0, END_OF_IDS) if removed else None


def _with(documents: Sequence[DocumentEntry], more: list[DocumentEntry]) -> list[DocumentEntry]:
    """Return the entries with others after them; a replacement before these comes to no end."""
    ended = [each.removed() if each.is_replacement else each for each in documents]
    return [*ended, *more] if more else list(documents)


def _without(documents: Sequence[DocumentEntry], name: str) -> list[DocumentEntry]:
    """Return the entries after the document of a name was removed."""
    return [each.removed() if each.name == name and each.is_needed else each for each in documents]


def _ended(documents: Sequence[DocumentEntry]) -> list[DocumentEntry]:
    """Return the entries after the last document has taken the place of the one of its name."""
    last = documents[-1]
    shown = {"is_complete": True, "is_removed": False, "is_replacement": False}
    return [*_without(documents[:-1], last.name), last.model_copy(update=shown)]
