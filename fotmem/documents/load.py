"""Loads documents from files, folders and datasets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from fotmem.documents.conversion import HTML, PDF, converted_text
from fotmem.documents.datasets import HUB, hub_texts, is_dataset, saved_texts
from fotmem.documents.document import Document
from fotmem.documents.lines import line_texts
from fotmem.errors import InputError
from fotmem.files import read_text

TEXT = (".txt", ".text", ".md", ".markdown", ".rst")
LINES = (".jsonl", ".ndjson")
CONVERTED = {".html": HTML, ".htm": HTML, ".xhtml": HTML, ".pdf": PDF}
KINDS = (*TEXT, *LINES, *CONVERTED)
"""Endings of the files that are loaded from a folder."""


def load_documents(source: str | Path, *, field: str = "text") -> Iterator[Document]:
    """Load documents one by one, so that the whole of a large file need not fit into RAM.

    Parameters
    ----------
    source : path
        A file: ``.jsonl`` and ``.ndjson`` have an object per line; ``.html``, ``.htm``, ``.xhtml``
        and ``.pdf`` are converted; every other file is one text, Markdown included. Or a dataset
        that `datasets.Dataset.save_to_disk` wrote. Or a folder: all files in it whose ending is
        known, sorted; hidden files and links are left out. Or ``hub:NAME`` or ``hub:NAME:SPLIT``,
        a dataset of the Hugging Face hub.
    field : str
        Where a line or a row has its text.

    Yields
    ------
    Document
        Its name is the file's, or ``"NAME#12"`` for the twelfth line or row.

    Raises
    ------
    InputError
        A file cannot be read, is binary, empty, in another encoding, damaged or too large, a line
        or row has no text, or a folder has no documents; the message names it.
    MissingPackageError
        A kind of document needs a package that is not installed.

    Examples
    --------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "notes.jsonl").write_text('{"text": "A captain."}')
    >>> [document] = load_documents(folder / "notes.jsonl")
    >>> document.text
    'A captain.'
    """
    path = Path(source)
    if str(source).startswith(HUB):
        texts = hub_texts(str(source), field)
    elif is_dataset(path):
        texts = saved_texts(path, field)
    elif path.is_dir():
        yield from _folder(path, field)
        return
    elif path.suffix.lower() in LINES:
        texts = line_texts(path, field)
    else:
        kind = CONVERTED.get(path.suffix.lower())
        yield Document(str(source), converted_text(path, kind) if kind else read_text(path))
        return
    for number, text in texts:
        yield Document(f"{source}#{number}", text)


def _folder(folder: Path, field: str) -> Iterator[Document]:
    files = sorted(_files(folder))
    if not files:
        raise InputError(
            f"{folder} is not a dataset on disk, and has no documents; expected files that end in "
            f"{', '.join(KINDS)}, or a folder that datasets' save_to_disk wrote"
        )
    for file in files:
        yield from load_documents(file, field=field)


def _files(folder: Path) -> Iterator[Path]:
    """Yield documents in a folder and those below it; follow no link."""

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}") from error

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            file = Path(place, name)
            known = not name.startswith(".") and file.suffix.lower() in KINDS
            if known and file.is_file() and not file.is_symlink():
                yield file
