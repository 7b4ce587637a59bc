"""A text as it goes into a memory: tokens, and the document that they are of."""

from __future__ import annotations

import hashlib
from typing import NamedTuple, Self

import torch
from torch import Tensor

from fotmem.documents import TokenizedDocument

UNKNOWN = -1
"""In place of a character: the token's place in the document is not known."""


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
    def of_document(cls, tokens: TokenizedDocument, name: str = "") -> Self:
        """Take a document, under another name if one is given."""
        document = tokens.document
        spans = tokens.starts.long().cpu(), tokens.stops.long().cpu()
        ids, characters = tokens.ids.long().cpu(), len(document.text)
        return cls(ids, *spans, name or document.name, document.sha256, characters)

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
