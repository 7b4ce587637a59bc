"""The visible text of an HTML page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from fotmem.documents.html_encoding import decode_html
from fotmem.documents.text_lines import TextLines
from fotmem.errors import InputError

DEEPEST = 10_000
"""Elements that may be nested."""
UNSEEN = {
    *("head", "script", "style", "template", "noscript", "noframes", "noembed", "iframe"),
    *("object", "embed", "audio", "video", "canvas", "select", "datalist", "title", "desc"),
    *("metadata", "annotation", "annotation-xml", "rp"),
}
"""Elements whose content a browser does not show, or shows only in a menu."""
LINES = {
    *("address", "article", "aside", "body", "caption", "center", "dd", "details"),
    *("dialog", "dir", "div", "dl", "dt", "fieldset", "figcaption", "footer", "form"),
    *("header", "hgroup", "legend", "li", "main", "menu", "nav", "ol", "section"),
    *("summary", "tbody", "tfoot", "thead", "tr", "ul"),
}
"""Elements that stand on lines of their own."""
PARAGRAPHS = {
    *("blockquote", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "p", "pre"),
    *("table",),
}
"""Elements with an empty line before and after them."""
HIDING = {
    ("display", "none"),
    ("visibility", "hidden"),
    ("visibility", "collapse"),
    ("content-visibility", "hidden"),
}
NOTHING = re.compile(r"(?:0+(?:\.0*)?|\.0+)(?:%|[a-z]+)?")


def html_text(content: bytes) -> str:
    """Return what a browser would show of a page, about as ``innerText`` of the HTML standard.

    Raises
    ------
    InputError
        Its encoding is wrong, elements are nested too deep, or no text is visible. The message
        goes on after the name of the file.
    """
    from justhtml import JustHTML

    tree = JustHTML(decode_html(content), sanitize=False)  # nothing of it is shown in a browser
    lines = TextLines()
    for node, entered, preformatted in _walk(tree.root):
        name = node.name
        if name == "#text":
            lines.add(node.data or "", preformatted=preformatted)
        elif name in LINES or name in PARAGRAPHS:
            lines.end(2 if name in PARAGRAPHS else 1)
        elif name in ("td", "th") and not entered:
            lines.end_cell()
        elif name == "br" and entered:
            lines.end_line()
    text = lines.text()
    if not text:
        raise InputError("has no visible text; if scripts write it, save the page from a browser")
    return text


def _walk(root: Any) -> Iterator[tuple[Any, bool, bool]]:
    """Yield each visible node where it begins (True) and ends (False), and whether spaces count."""
    left = [(root, True, False, 0)]
    while left:
        node, entered, preformatted, depth = left.pop()
        if depth > DEEPEST:
            raise InputError(f"has more than {DEEPEST:,} nested elements; repair the page")
        if entered and _is_hidden(node):
            continue
        yield node, entered, preformatted
        if entered and node.name != "#text":
            left.append((node, False, preformatted, depth))
            inside = preformatted or node.name in ("pre", "textarea")
            left += [(child, True, inside, depth + 1) for child in reversed(node.children or ())]


def _is_hidden(node: Any) -> bool:
    attributes = getattr(node, "attrs", None) or {}
    return (
        node.name in UNSEEN
        or "hidden" in attributes
        or (node.name == "dialog" and "open" not in attributes)
        or _hides(attributes.get("style") or "")
    )


def _hides(style: str) -> bool:
    for declaration in re.sub(r"/\*.*?\*/", "", style.lower()).split(";"):
        name, _, given = declaration.partition(":")
        value = given.partition("!")[0].strip()
        if (name.strip(), value) in HIDING:
            return True
        if name.strip() in ("opacity", "font-size") and NOTHING.fullmatch(value):
            return True
    return False
