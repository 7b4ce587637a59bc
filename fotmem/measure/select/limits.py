"""What a deployment allows, and what a setting of a store is foretold to take of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from fotmem.arguments import checked_number


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a deployment allows; None: as much as there is.

    Raises
    ------
    OptionError
        A limit that nothing could keep.
    """

    ram: int | None = None
    """Bytes, of all memory layers together."""
    disk: int | None = None
    """Bytes, of all memory layers together."""
    latency: float | None = None
    """Seconds that memory adds to a decoding step: all memory layers, one query of each head."""
    max_error: float | None = None
    """Of the attention output, relative to attention to the exact top k: mean."""
    min_recall: float | None = None
    """Share of the exact top k that are found: mean."""
    persistent: bool = False
    """Whether what is remembered must outlive the process."""

    def __post_init__(self) -> None:
        for name in ("ram", "disk", "latency"):
            if (limit := getattr(self, name)) is not None:
                checked_number(name, limit, kind="more than 0", above=0)
        for name in ("max_error", "min_recall"):
            if (limit := getattr(self, name)) is not None:
                checked_number(name, limit, kind="from 0 to 1", least=0, most=1)


class Prediction(NamedTuple):
    """What a setting takes and finds at some size; costs are of all memory layers together."""

    ram: float
    """Bytes."""
    disk: float
    """Bytes."""
    latency: float
    """Seconds of a decoding step."""
    error: float
    """Of the attention output, relative to attention to the exact top k: mean."""
    recall: float
    """Share of the exact top k that are found: mean."""


class LimitViolation(NamedTuple):
    """A limit that is not kept."""

    limit: str
    """Its name in `Limits`."""
    needed: float
    """What the limit would have to be."""
    factor: float
    """How many times that is what is allowed, or what is allowed that; more than 1."""
    reason: str
    cure: str
    """The option of the command that would allow it."""


class _Rule(NamedTuple):
    limit: str
    of: Callable[[Prediction], float]
    most: bool
    """Whether the limit is the most that is allowed, or the least."""
    told: Callable[[float], str]
    what: str


def in_bytes(size: float) -> str:
    """Write a number of bytes, such as 1.5GiB."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1000:
            return f"{size:.1f}{unit}"
        size /= 1024
    return f"{size:.1f}GiB"


def in_ms(seconds: float) -> str:
    """Write a time, such as 20.5ms."""
    return f"{1e3 * seconds:.2f}ms"


def _in_share(share: float) -> str:
    return f"{share:.3f}"


RULES = (
    _Rule("ram", lambda found: found.ram, True, in_bytes, "RAM"),
    _Rule("disk", lambda found: found.disk, True, in_bytes, "on disk"),
    _Rule("latency", lambda found: found.latency, True, in_ms, "a step"),
    _Rule("max_error", lambda found: found.error, True, _in_share, "error"),
    _Rule("min_recall", lambda found: found.recall, False, _in_share, "recall"),
)
SPARE = 0.02
"""Of a limit that is proposed: a figure that is rounded must still keep it."""


def misses(limits: Limits, found: Prediction) -> list[LimitViolation]:
    """Return the limits that are not kept."""
    missed = []
    for rule in RULES:
        limit, value = getattr(limits, rule.limit), rule.of(found)
        if limit is None or (value <= limit if rule.most else value >= limit):
            continue
        needed = value * (1 + SPARE if rule.most else 1 - SPARE)
        low, high = sorted((max(value, 1e-9), max(limit, 1e-9)))
        bound = "at most" if rule.most else "at least"
        missed.append(
            LimitViolation(
                limit=rule.limit,
                needed=needed,
                factor=high / low,
                reason=f"{rule.told(value)} {rule.what}, {bound} {rule.told(limit)} wanted",
                cure=f"--{rule.limit.replace('_', '-')} {rule.told(needed)}",
            )
        )
    return missed
