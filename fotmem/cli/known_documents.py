"""The documents of a memory, as files that are read into it are compared with them."""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fotmem.directory.facts import DocumentEntry
    from fotmem.documents import Document


class KnownDocuments:
    """The documents of a memory; each file is one of them, however its path is written."""

    def __init__(self, entries: "Iterable[DocumentEntry]") -> None:
        self._names: dict[str, str] = {}
        self._texts: dict[str, str] = {}
        for each in entries:
            if each.is_needed:
                self._names[_place(each.name)] = each.name
            if each.is_complete and not each.is_removed:
                self._texts[each.name] = each.sha256

    def named(self, document: "Document") -> "Document":
        """Return a document under the name that its file has in the memory, or will have."""
        from fotmem.documents import Document

        name = self._names.setdefault(_place(document.name), document.name)
        return document if name == document.name else Document(name, document.text)

    def has(self, document: "Document") -> bool:
        """Return whether a document has been read and has not changed."""
        return self._texts.get(document.name) == document.sha256

    def add(self, document: "Document") -> str | None:
        """Note that a document was read; return another document with the same text, if any."""
        self._texts[document.name] = document.sha256
        same = (name for name, sha256 in self._texts.items() if sha256 == document.sha256)
        return next((name for name in same if name != document.name), None)


def _place(name: str) -> str:
    """Return where a file is, seen from the current folder."""
    try:
        return os.path.realpath(name)
    except ValueError:  # no name of a file
        return name
