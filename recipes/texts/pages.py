"""The text of HTML pages, without what leads from page to page."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path

from recipes.texts.plain import decoded

BLOCKS = re.compile("p|div|h[1-6]|li|[uod]l|d[td]|pre|tr|table|blockquote|br|section")
HIDDEN = re.compile("script|style|head|nav|header|footer|aside|noscript")
NAVIGATION = re.compile(
    "(nav(header|footer)|docnav|nav-panel|book-navigation|(mini-)?toc|(region|element)-contents"
    "|copiable-link|id_link|printindex-index)"
)
"""Classes of elements that say where the reader is, not what the page says."""
PAGES = 0.2
"""Share of pages with the same paragraph from which on it is navigation, too."""


class PageText(HTMLParser):
    """Collects the text of a page: an empty line ends each block, cells of a row share a line."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self._parts: list[str] = []
        self._hidden: list[str] = []  # the open elements, from the first that is not shown
        self._literal = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a block, or what is not shown."""
        classes = (dict(attrs).get("class") or "").split()
        if self._hidden or HIDDEN.fullmatch(tag) or any(map(NAVIGATION.fullmatch, classes)):
            self._hidden.append(tag)
        self._literal += tag == "pre"
        self._parts += ["\n\n"] * bool(BLOCKS.fullmatch(tag)) + [" | "] * (tag == "td")

    def handle_endtag(self, tag: str) -> None:
        """End it, and the elements in it that have no end."""
        if tag in self._hidden:
            last = len(self._hidden) - 1 - self._hidden[::-1].index(tag)
            del self._hidden[last:]
        self._literal -= tag == "pre"
        self._parts += ["\n\n"] * bool(BLOCKS.fullmatch(tag))

    def handle_data(self, data: str) -> None:
        """Keep text that is shown; the lines of a program stay lines."""
        if not self._hidden:
            self._parts.append(data if self._literal else " ".join(re.split(r"\s+", data)))

    def paragraphs(self) -> list[str]:
        """Return the blocks, without one that repeats the one before."""
        blocks = re.split(r"\n\s*\n", "".join(self._parts))
        stripped = (block.strip(" |\n") for block in blocks)
        return [block for block, _ in itertools.groupby(filter(None, stripped))]


def page_texts(files: Iterable[Path]) -> str:
    """Return the text of pages, without the paragraphs that many of them share."""
    pages = [PageText(decoded(file)).paragraphs() for file in files]
    counts = Counter(paragraph for page in pages for paragraph in set(page))
    most = max(3, PAGES * len(pages))
    return "\n\n".join(each for page in pages for each in page if counts[each] <= most)
