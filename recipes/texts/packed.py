"""Texts in formats of their own: data of R packages, the King James Bible, SWORD modules."""

import itertools
import re
import struct
import subprocess
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

R_HEADER = 23
"""Bytes before the first object: format, versions, and the name of the encoding."""
BIBLE_INDEX = 0x5C
"""Where `bible.data` says where its blocks begin."""
LZW = b"\x1f\x9d\x90"
"""Header of a `.Z` file; with it, `gzip` unpacks a block of `bible.data`."""


def r_data(files: Iterable[Path]) -> str:
    """Return the character vectors in `data/Rdata.rdb` of R packages, an element a line."""
    objects = (each for file in files for each in r_objects(file.read_bytes()))
    return "\n\n".join("\n".join(r_strings(each)) for each in objects)


def r_objects(content: bytes) -> Iterator[bytes]:
    """Yield the serialized objects of a lazy-load database: length and zlib, one after another."""
    while content:
        unpacking = zlib.decompressobj()
        yield unpacking.decompress(content[4:])
        content = unpacking.unused_data


def r_strings(serialized: bytes) -> list[str]:
    """Return the elements of a character vector; a missing one is empty."""
    strings, place = [], R_HEADER + 8
    (count,) = struct.unpack_from(">i", serialized, R_HEADER + 4)
    for _ in range(count):
        (length,) = struct.unpack_from(">i", serialized, place + 4)
        end = place + 8 + max(length, 0)
        strings.append(serialized[place + 8 : end].decode("utf-8-sig"))
        place = end
    return strings


def bible(files: Iterable[Path]) -> str:
    """Return the text of `bible.data`, a verse a line, without the names of the verses."""
    blocks = (block for file in files for block in bible_blocks(file.read_bytes()))
    return re.sub(r"(?m)^\d?[A-Z]\w+:\d+ ", "", b"".join(blocks).decode("latin-1"))


def bible_blocks(content: bytes) -> Iterator[bytes]:
    """Yield the unpacked blocks of `bible.data`."""
    numbers = (struct.unpack_from(">I", content, at)[0] for at in itertools.count(BIBLE_INDEX, 4))
    places = [*itertools.takewhile(lambda place: place < len(content), numbers), len(content)]
    for start, end in itertools.pairwise(places):
        packed = LZW + content[start:end]
        yield subprocess.run(["gzip", "-dc"], input=packed, capture_output=True, check=True).stdout


def sword(files: Iterable[Path]) -> str:
    """Return the text of SWORD modules of type zText, by their indexes of blocks (`.bzs`)."""
    blocks = (block for file in sorted(files, reverse=True) for block in sword_blocks(file))
    text = re.sub(r"<(milestone|title|chapter)\b[^>]*>", "\n", "\n".join(blocks))
    return re.sub(r"<[^>]*>", "", text)


def sword_blocks(index: Path) -> Iterator[str]:
    """Yield the unpacked blocks of a testament, in OSIS."""
    content = index.with_suffix(".bzz").read_bytes()
    for start, size, _ in struct.iter_unpack("<III", index.read_bytes()):
        yield zlib.decompress(content[start : start + size]).decode()
