"""Joins pieces of text into lines, as a browser lays them out."""

import re

SPACES = re.compile(r"[ \t\n\r\f]+")


class TextLines:
    """Text that grows piece by piece; spaces and line breaks are joined to those before them."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._breaks = 0
        self._space = ""

    def add(self, text: str, *, preformatted: bool = False) -> None:
        """Add text; runs of spaces become one, unless it is preformatted."""
        text = text.replace("\xa0", " ").replace("\xad", "")  # a soft hyphen
        if not preformatted:
            text = SPACES.sub(" ", text)
            if text.startswith(" "):
                self._space = self._space or " "
            body = text.strip(" ")
        else:
            body = text
        if body:
            self._put(body)
            self._space = " " if not preformatted and text.endswith(" ") else ""

    def _put(self, body: str) -> None:
        if self._parts:
            self._parts.append("\n" * self._breaks if self._breaks else self._space)
        self._parts.append(body)
        self._breaks = 0

    def end_line(self) -> None:
        """End a line; after an empty one, the third and later ones are left out."""
        self.end(min(self._breaks + 1, 2))

    def end(self, breaks: int) -> None:
        """Let what follows stand at least this many line breaks below."""
        self._breaks = max(self._breaks, breaks)
        self._space = ""

    def end_cell(self) -> None:
        """Let what follows on this line stand after a tab."""
        self._space = "\t"

    def text(self) -> str:
        """Return the lines, without empty ones at the beginning and end."""
        return "".join(self._parts).strip()
