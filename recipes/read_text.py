"""A text that a model has read once, so that many questions can be asked with several stores.

The text is kept in a directory. What a memory would hold if a number stood somewhere in the text is
put together from there: one window of the text is read again, with the number in it. As windows do
not attend to memory while they are read, that equals reading the changed text.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import fotmem
from fotmem.directory.committed import find_manifest
from fotmem.errors import InputError
from fotmem.files import read_text
from fotmem.measure.reading import OVERLAP
from fotmem.memory import reading
from fotmem.memory.contents import Contents
from fotmem.memory.reading import checked_text
from fotmem.models.tokens import token_ids

WINDOW = 512
NEW = WINDOW - OVERLAP
"""Tokens that a window adds to memory."""


class Changed(NamedTuple):
    """Tokens in place of some tokens of the text."""

    replaced: range
    tokens: list[int]


class ReadText:
    """A text in a directory, and the memory of a model that is asked about it.

    Parameters
    ----------
    model, tokenizer
        Of `load_model`.
    text : path
        The text; it is read anew where the directory holds less than `tokens` of it.
    directory : path
    tokens : int
        How much of the text to read, at most.
    """

    def __init__(self, model: Any, tokenizer: Any, text: Path, directory: Path, tokens: int):
        self.model, self.tokenizer = model, tokenizer
        self.ids = token_ids(tokenizer, read_text(text))
        self._read(directory, min(tokens, len(self.ids)))
        kept = fotmem.open_memory(directory, model)
        self._kept = kept.attached_model.contents
        kept.detach()
        if self._kept.tokens.tolist() != self.ids[: len(self)]:
            raise InputError(f"{directory} holds another text than {text}: remove it")
        self.memory = fotmem.attach(model, window=WINDOW)

    def __len__(self) -> int:
        """Count the tokens that were read."""
        return len(self._kept)

    def _read(self, directory: Path, tokens: int) -> None:
        manifest = find_manifest(directory)
        if manifest is None:
            memory = fotmem.attach(self.model, window=WINDOW)
            memory.save(directory, tokenizer=self.tokenizer)
        elif manifest.rows < tokens:
            memory = fotmem.open_memory(directory, self.model, append_only=True)
        else:
            return
        memory.read(self.ids[len(memory.tokens) : tokens], overlap=OVERLAP, progress=True)
        memory.close()

    def put(self, store: str, top_k: int | None, begun: Contents | None = None) -> Contents:
        """Give the memory these contents; by default empty ones, in a store. Return them."""
        if begun is None:
            self.memory.clear()
            self.memory.use(store)
        else:
            self.memory.attached_model.contents = begun
        self.memory.top_k = top_k
        return self.memory.attached_model.contents

    def add(self, contents: Contents, part: range, changes: Iterable[Changed] = ()) -> None:
        """Append a part of the text, with some changes in their order."""
        start = part.start
        for replaced, tokens in changes:
            contents.recall(self._kept, range(start, replaced.start))
            text = checked_text(self.memory.attached_model, tokens)
            reading.read(self.memory.attached_model, contents, text, False, OVERLAP)
            start = replaced.stop
        contents.recall(self._kept, range(start, part.stop))
