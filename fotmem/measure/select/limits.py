"""The limits of a deployment, and the predicted cost and quality of a setting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from fotmem.arguments import checked_number


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a deployment; None: no limit.

    Raises
    ------
    OptionError
        A limit that no store could keep.
    """

    ram: int | None = None
    """Bytes of memory, all memory layers together."""
    disk: int | None = None
    """Bytes on disk, all memory layers together."""
    latency: float | None = None
    """Seconds that memory adds to a decoding step: all memory layers, one query of each head."""
    max_error: float | None = None
    """Excess error: relative error of the attention output against attention to the exact top k.
    With attention to all keys, the error against dense attention."""
    min_recall: float | None = None
    """Share of the exact top k that is found."""
    persistent: bool = False
    """Whether the memory must outlive the process: it is kept in a directory, which counts as disk.
    """

    def __post_init__(self) -> None:
        for name in ("ram", "disk", "latency"):
            if (limit := getattr(self, name)) is not None:
                checked_number(name, limit, kind="more than 0", above=0)
        for name in ("max_error", "min_recall"):
            if (limit := getattr(self, name)) is not None:
                checked_number(name, limit, kind="from 0 to 1", least=0, most=1)


class Prediction(NamedTuple):
    """The predicted cost and quality of a setting; costs are of all memory layers together."""

    ram: float
    """Bytes."""
    disk: float
    """Bytes."""
    latency: float
    """Seconds of a decoding step."""
    error: float
    """Excess error: relative error of the attention output against attention to the exact top k.
    With attention to all keys, the error against dense attention."""
    recall: float
    """Share of the exact top k that is found; with attention to all keys, 1."""
    estimated_error: float | None = None
    """Error that the store itself expects of its attention to all keys; None: it cannot tell."""


class LimitViolation(NamedTuple):
    """A limit that a setting does not keep."""

    limit: str
    """Name of the limit in `Limits`."""
    needed: float
    """Value of the limit that the setting would keep."""
    factor: float
    """Ratio of the predicted value and the limit, the larger by the smaller; more than 1."""
    kind: str
    """Which limit, and how the setting violates it."""
    reason: str
    """The same with the predicted value and the limit."""
    cure: str
    """Option of the command that would allow the setting."""


class _Rule(NamedTuple):
    limit: str
    of: Callable[[Prediction], float]
    most: bool
    """Whether the limit is an upper or a lower one."""
    shown: Callable[[float], str]
    name: str


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
    _Rule("disk", lambda found: found.disk, True, in_bytes, "disk"),
    _Rule("latency", lambda found: found.latency, True, in_ms, "latency"),
    _Rule("max_error", lambda found: found.error, True, _in_share, "excess error"),
    _Rule("min_recall", lambda found: found.recall, False, _in_share, "recall"),
)
SPARE = 0.02
"""Margin of a proposed limit: the setting must keep it after rounding."""


def violations(
    limits: Limits, predicted: Prediction, *, all_keys: bool = False
) -> list[LimitViolation]:
    """Return the limits that a setting does not keep; `all_keys`: with attention to all keys."""
    found = []
    for rule in RULES:
        limit, value = getattr(limits, rule.limit), rule.of(predicted)
        if limit is None or (value <= limit if rule.most else value >= limit):
            continue
        needed = value * (1 + SPARE if rule.most else 1 - SPARE)
        low, high = sorted((max(value, 1e-9), max(limit, 1e-9)))
        name = rule.name.removeprefix("excess ") if all_keys else rule.name
        kind = f"{'exceeds' if rule.most else 'is below'} the {name} limit"
        found.append(
            LimitViolation(
                limit=rule.limit,
                needed=needed,
                factor=high / low,
                kind=kind,
                reason=f"{kind} ({rule.shown(value)}, limit {rule.shown(limit)})",
                cure=f"--{rule.limit.replace('_', '-')} {rule.shown(needed)}",
            )
        )
    return found
