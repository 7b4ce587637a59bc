"""Texts of strangers, as a terminal may show them."""

import unicodedata

DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that turn the order of what follows."""


def printable(text: str) -> str:
    r"""Return a text without characters that control a terminal; tabs and line ends stay.

    Examples
    --------
    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return "".join(map(_shown, text))


def printable_name(name: str) -> str:
    r"""Return a name as a part of one line: it must not look like a line of ours.

    Examples
    --------
    >>> printable_name("a\nnothing is damaged")
    'a\\nnothing is damaged'
    """
    return printable(name).replace("\n", r"\n").replace("\t", r"\t")


def _shown(character: str) -> str:
    controls = unicodedata.category(character) in ("Cc", "Cs") or character in DIRECTIONS
    if not controls or character in "\t\n":
        return character
    return character.encode("unicode_escape").decode()
