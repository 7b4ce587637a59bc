"""Decodes HTML as it says itself."""

import codecs
import re

from fotmem.errors import InputError

DECLARED = re.compile(
    rb"""<(?:meta\s[^>]*charset|\?xml\s[^>]*encoding)\s*=\s*["']?\s*([\w.:-]+)""", re.I
)
BEGIN = 4096
"""Bytes that may declare the encoding."""
MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
SUPERSETS = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "utf-16": "utf-8",
    "utf-16-le": "utf-8",
    "utf-16-be": "utf-8",
}
"""Encodings that browsers read as another one (the Encoding Standard)."""
KNOWN = {
    *("utf-8", "big5", "big5hkscs", "euc_jp", "iso2022_jp", "gb18030", "koi8-r", "koi8-u"),
    *("cp866", "cp874", "cp932", "cp949", "mac-roman", "mac-cyrillic"),
    *(f"cp125{number}" for number in range(9)),
    *(f"iso8859-{number}" for number in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)),
}


def decode_html(content: bytes) -> str:
    """Decode a page by its byte order mark, or what it declares, or as UTF-8.

    Raises
    ------
    InputError
        The encoding is not known, or not the page's. The message goes on after the file's name.
    """
    for mark, encoding in MARKS.items():
        if content.startswith(mark):
            return _decoded(content[len(mark) :], encoding, "as its byte order mark says")
    declared = DECLARED.search(content[:BEGIN])
    if declared is None:
        return _decoded(content, "utf-8", "and declares no other encoding")
    return _decoded(content, _known(declared[1].decode()), "which it declares")


def _known(label: str) -> str:
    try:
        name = codecs.lookup(label).name
    except LookupError:
        name = ""
    encoding = SUPERSETS.get(name, name)
    if encoding not in KNOWN:
        raise InputError(f"declares the encoding {label!r}, which is not known; save it as UTF-8")
    return encoding


def _decoded(content: bytes, encoding: str, why: str) -> str:
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(
            f"is not {encoding} (byte {error.start}), {why}; save it as UTF-8"
        ) from error
    if "\0" in text:
        raise InputError("is binary, not HTML")
    return text
