"""What a benchmark found: rows of figures, as JSON whose schema is that of `BenchReport`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from fotmem.errors import InputError
from fotmem.files import read_utf8, write_text
from fotmem.measure.bench.figures import Figure
from fotmem.measure.setting import Setting, StrictModel, first_of

REFERENCE = "exact"
"""Times are also told in units of this store's."""


def _within(least: float, most: float) -> AfterValidator:
    """Let a figure and its interval lie within bounds: a report may be edited, or damaged."""

    def check(figure: Figure) -> Figure:
        if not all(least <= end <= most for end in figure) or figure.low > figure.high:
            raise ValueError(f"expected value, low and high from {least:g} to {most:g}")
        return figure

    return AfterValidator(check)


Share = Annotated[Figure, _within(-1, 2)]  # as far as intervals reach
Error = Annotated[Figure, _within(0, 1e60)]
Time = Annotated[Figure, _within(1e-15, 1e15)]
Read = Annotated[float, Field(ge=0, le=2)] | None
Amount = Annotated[float, Field(ge=-1e18, le=1e18)]
Number = Annotated[int, Field(ge=0, le=2**50)]


class BuildCost(StrictModel):
    """What it took to build a store of one layer."""

    seconds: Amount
    """Of all `add` calls."""
    add_median: Amount
    """Seconds of one `add` of 2,048 tokens."""
    add_longest: Amount
    ram: Amount
    """Bytes per token that the process needs more than with an empty store."""
    disk: Amount
    """Bytes per token on disk; 0 for stores in memory."""


class _OfLayer(StrictModel):
    """About one setting on one layer."""

    setting: Setting
    layer: Number

    @property
    def about(self) -> tuple[str, int]:
        """The same for rows about the same."""
        return self.setting.key, self.layer


class Row(_OfLayer):
    """One setting on one layer, asked for the best `top_k`."""

    top_k: Number
    recall: Share
    mass: Share
    error: Error
    error_p95: Error
    topk_error: Error
    share_read: Read
    """Share of the keys that a query is compared with; null where the store cannot tell."""
    one_p50: Time
    """Seconds of attention with one query of each head: median."""
    one_p95: Time
    one_p99: Time
    window: Time
    """Seconds of attention with `window_queries` queries of each head at once: median."""
    window_queries: Annotated[int, Field(ge=1, le=2**50)]
    one_relative: Time | None = None
    """`one_p50` in units of what `exact` took in the same round; null where it was not beside."""
    window_relative: Time | None = None
    """The same of `window`."""
    build: BuildCost
    batch: Number
    """Settings of the same batch were timed in turn, side by side."""


class GrowthRow(_OfLayer):
    """A setting while its memory grew."""

    top_k: Number
    size: Number
    """Tokens."""
    recall: Share
    mass: Share
    error: Error
    topk_error: Error
    share_read: Read
    add_median: Amount
    """Seconds of one `add` of at most 2,048 tokens, since the size before."""
    add_longest: Amount
    ram: Amount
    """Bytes per token."""
    one: Amount
    """Seconds of one query of each head: the lower of two medians, taken one after the other."""


class Failure(_OfLayer):
    """A setting that could not be measured."""

    reason: str


class BenchReport(StrictModel):
    """Everything that was measured, and on what."""

    fotmem_bench: Literal[1] = 1
    """Version of the schema."""
    capture: dict[str, Any]
    """`CaptureInfo` of the capture."""
    machine: dict[str, Any]
    versions: dict[str, str]
    measured: dict[str, Any]
    """Queries, rounds, threads and device."""
    rows: tuple[Row, ...] = ()
    growth: tuple[GrowthRow, ...] = ()
    failures: tuple[Failure, ...] = ()

    @classmethod
    def read(cls, file: Path) -> BenchReport:
        """Read a report.

        Raises
        ------
        InputError
            It cannot be read, or is none.
        """
        content = read_utf8(file)
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise InputError(f"{file} is no report of fotmem bench ({first_of(error)})") from error

    def write(self, file: Path) -> None:
        """Write the report, at once or not at all."""
        write_text(file, self.model_dump_json(indent=1) + "\n")
