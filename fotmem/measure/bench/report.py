"""The report of a benchmark: rows of figures, as JSON with the schema of `BenchReport`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field, ValidationError

from fotmem.errors import InputError
from fotmem.files import read_utf8, write_text
from fotmem.measure.bench.figures import Figure
from fotmem.measure.setting import Setting, StrictModel, first_of

REFERENCE = "exact"
"""The store whose times are the unit of relative times."""


def _within(least: float, most: float) -> AfterValidator:
    """Require a figure and its interval to lie within bounds: a report may be edited or damaged."""

    def check(figure: Figure) -> Figure:
        if not all(least <= end <= most for end in figure) or figure.low > figure.high:
            raise ValueError(f"expected value, low and high from {least:g} to {most:g}")
        return figure

    return AfterValidator(check)


Share = Annotated[Figure, _within(-1, 2)]  # intervals may reach a little beyond 0 and 1
Error = Annotated[Figure, _within(0, 1e60)]
MeanError = Annotated[float, Field(ge=0, le=1e60)]
Time = Annotated[Figure, _within(1e-15, 1e15)]
Read = Annotated[float, Field(ge=0, le=2)] | None
Amount = Annotated[float, Field(ge=-1e18, le=1e18)]
Number = Annotated[int, Field(ge=0, le=2**50)]


class BuildCost(StrictModel):
    """The cost of building a store of one layer."""

    seconds: Amount
    """Sum over all `add` calls."""
    median_insert_latency: Amount
    """Seconds of an `add` of 2,048 tokens: median."""
    max_insert_latency: Amount
    """Seconds of the slowest `add`."""
    ram: Amount
    """Bytes per token that the process needs more than with an empty store."""
    disk: Amount
    """Bytes per token on disk; 0 for stores in memory."""


class _OfLayer(StrictModel):
    """A row about one setting on one layer."""

    setting: Setting
    layer: Number

    @property
    def about(self) -> tuple[str, int]:
        """A key that is equal for rows about the same setting and layer."""
        return self.setting.key, self.layer


class Row(_OfLayer):
    """One setting on one layer, searched for the best `top_k` keys."""

    top_k: Number
    recall: Share
    attention_mass_recall: Share
    error: Error
    error_p95: Error
    excess_error: Error
    share_read: Read
    """Share of the keys that a query is compared with; null where the store cannot count them."""
    latency_p50: Time
    """Seconds of attention with one query of each head: median."""
    latency_p95: Time
    latency_p99: Time
    window_latency: Time
    """Seconds of attention with `window_queries` queries of each head at once: median."""
    window_queries: Annotated[int, Field(ge=1, le=2**50)]
    relative_latency: Time | None = None
    """`latency_p50` in units of the time of `exact` in the same rounds; null without `exact`."""
    relative_window_latency: Time | None = None
    """`window_latency` in the same units."""
    build: BuildCost
    batch: Number
    """Settings of the same batch were timed in turn, side by side."""


class EstimatedError(NamedTuple):
    """The errors of some queries: what the store estimated, and what is true; means."""

    estimated: MeanError
    true: MeanError


class AllKeysRow(_OfLayer):
    """One setting on one layer, attending to all keys (``top_k=None``)."""

    error: Error
    error_p95: Error
    estimated_error: MeanError | None
    """Relative error that the store expects: mean; null where it cannot tell."""
    calibration: tuple[EstimatedError, ...]
    """Errors of each quarter of the queries, by estimated error; empty where there is none."""
    share_read: Read
    """Share of the keys that a query reads: mean; the others are estimated."""
    latency_p50: Time
    latency_p95: Time
    latency_p99: Time
    window_latency: Time
    window_queries: Annotated[int, Field(ge=1, le=2**50)]
    relative_latency: Time | None = None
    """`latency_p50` in units of the time of `exact`, which is dense attention, in the same rounds;
    null without `exact`."""
    relative_window_latency: Time | None = None
    batch: Number


class GrowthRow(_OfLayer):
    """A setting at one size, while its memory grew."""

    top_k: Number
    size: Number
    """Tokens."""
    recall: Share
    attention_mass_recall: Share
    error: Error
    excess_error: Error
    share_read: Read
    median_insert_latency: Amount
    """Seconds of an `add` of at most 2,048 tokens, since the previous size."""
    max_insert_latency: Amount
    ram: Amount
    """Bytes per token."""
    latency: Amount
    """Seconds of one query of each head: the lower of two medians, taken one after the other."""


class Failure(_OfLayer):
    """A setting that could not be measured."""

    reason: str


class BenchReport(StrictModel):
    """Everything that was measured, on which machine, with which versions."""

    fotmem_bench: Literal[1] = 1
    """Version of the schema."""
    capture: dict[str, Any]
    """`CaptureInfo` of the capture."""
    machine: dict[str, Any]
    versions: dict[str, str]
    measured: dict[str, Any]
    """Queries, rounds, threads and device."""
    rows: tuple[Row, ...] = ()
    all_keys: tuple[AllKeysRow, ...] = ()
    """Of stores that estimate, and of `exact` beside them."""
    growth: tuple[GrowthRow, ...] = ()
    failures: tuple[Failure, ...] = ()

    @classmethod
    def read(cls, file: Path) -> BenchReport:
        """Read a report.

        Raises
        ------
        InputError
            The file cannot be read, or is not a report.
        """
        content = read_utf8(file)
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            reason = first_of(error)
            raise InputError(f"{file} is not a report of fotmem bench ({reason})") from error

    def write(self, file: Path) -> None:
        """Write the report, whole or not at all."""
        write_text(file, self.model_dump_json(indent=1) + "\n")
