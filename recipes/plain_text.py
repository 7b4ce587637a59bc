"""Writes the text of HTML pages, such as a book that a package of the system brings, to a file.

::

    python -m recipes.plain_text "/usr/share/doc/anarchism/html/sec*.html" argument.txt
"""

import glob
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

BLOCKS = {
    *(
        "p",
        "div",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "li",
        "pre",
        "tr",
        "blockquote",
        "dt",
        "dd",
        "br",
        "table",
    )
}
HIDDEN = {"script", "style", "head"}


class PageText(HTMLParser):
    """Collects the text of a page; an empty line ends each block."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self._parts: list[str] = []
        self._hidden = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """Begin a block, or what is not shown."""
        self._hidden += tag in HIDDEN
        self._parts += ["\n\n"] * (tag in BLOCKS)

    def handle_endtag(self, tag: str) -> None:
        """End it."""
        self._hidden -= tag in HIDDEN
        self._parts += ["\n\n"] * (tag in BLOCKS)

    def handle_data(self, data: str) -> None:
        """Keep text that is shown."""
        self._parts += [data] * (not self._hidden)

    def paragraphs(self) -> list[str]:
        """Return the paragraphs, each in one line."""
        blocks = re.split(r"\n\s*\n", "".join(self._parts))
        return [" ".join(block.split()) for block in blocks if block.strip()]


def by_number(name: str) -> list[str | int]:
    """Return a key that puts page 10 after page 9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def main(pattern: str, target: str) -> None:
    """Write the text of all pages that match a pattern, in the order of their names."""
    pages = sorted(glob.glob(pattern), key=by_number)
    if not pages:
        sys.exit(f"no file matches {pattern}")
    texts = [Path(page).read_text("utf-8", "ignore") for page in pages]
    paragraphs = [each for text in texts for each in PageText(text).paragraphs()]
    Path(target).write_text("\n\n".join(paragraphs) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
