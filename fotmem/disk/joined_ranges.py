"""Joins parts of files that are asked for together, so that fewer requests are sent."""

from collections.abc import Sequence

from fotmem.disk.byte_range import ByteRange

GAP = 2**16
"""Most bytes between two parts that are read in vain to save a request."""
LARGEST = 2**23
"""Most bytes of a joined part; also what one request asks for."""


def joined(ranges: Sequence[ByteRange]) -> tuple[list[ByteRange], list[int]]:
    """Join ranges of one file that lie near one another.

    Returns
    -------
    tuple of list of ByteRange and list of int
        What to ask for, and for each range the number of what holds it.
    """
    requests: list[ByteRange] = []
    numbers = [0] * len(ranges)
    for n in sorted(range(len(ranges)), key=lambda n: (ranges[n].key, ranges[n].start)):
        part = ranges[n]
        whole = _union(requests[-1], part) if requests else None
        if whole is None:
            requests.append(part)
        else:
            requests[-1] = whole
        numbers[n] = len(requests) - 1
    return requests, numbers


def cut_out(part: ByteRange, request: ByteRange, data: bytes | None) -> bytes | None:
    """Return the part of a file from the data of the request that holds it."""
    if data is None or part == request:
        return data
    start = part.start - request.start
    return data[start : None if part.stop is None else max(start, part.stop - request.start)]


def _union(one: ByteRange, other: ByteRange) -> ByteRange | None:
    """Join two ranges, the one that begins earlier first; None if they are better read apart."""
    if one.key != other.key or one.stop is None or other.stop is None:
        return None
    stop = max(one.stop, other.stop)
    if other.start > one.stop + GAP or stop - one.start > LARGEST:
        return None
    return one._replace(stop=stop)
