"""The text of a PDF."""

from __future__ import annotations

import io
from collections.abc import Iterator

from fotmem.errors import InputError

LONGEST = 2**28
"""Characters that a PDF may have."""
BEGIN = 1024
"""Bytes of which one begins a PDF; others may stand before it."""


def pdf_text(content: bytes) -> str:
    """Return the text of all pages, with an empty line between them.

    Raises
    ------
    InputError
        It is not a PDF, needs a password, has no pages or no text. The message goes on after the
        name of the file.
    """
    from pypdf.errors import LimitReachedError

    if b"%PDF-" not in content[:BEGIN]:
        raise InputError("is not a PDF; give it the ending of what it is, such as .txt")
    try:
        pages = list(_pages(content))
    except LimitReachedError as error:  # of what a stream unpacks to, of nesting, of entries
        raise InputError(f"exceeds a limit of pypdf ({error}); print it to a new PDF") from error
    text = "\n\n".join(filter(None, pages))
    if not pages:
        raise InputError("has no pages; save it anew")
    if not text:
        raise InputError(
            "has no text on any page, as a scan has; let a program for text recognition (OCR) "
            "add it, such as ocrmypdf FILE COPY"
        )
    return text


def _pages(content: bytes) -> Iterator[str]:
    from pypdf import PdfReader

    reader = PdfReader(io.BytesIO(content))
    if reader.is_encrypted and not reader.decrypt(""):
        raise InputError(
            "needs a password; save a copy without one, such as by "
            "qpdf --decrypt --password=... FILE COPY"
        )
    left = LONGEST
    for page in reader.pages:
        text = _repaired(page.extract_text()).strip()
        left -= len(text)
        if left < 0:
            raise InputError(f"has more than {LONGEST:,} characters; split it")
        yield text


def _repaired(text: str) -> str:
    """Replace halves of surrogate pairs, which damaged fonts lead to; leave null characters out."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return whole.replace("\0", "")
