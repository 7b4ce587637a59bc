"""The choice among settings: the best one, why others are rejected, and which limit to relax."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fotmem.errors import InputError
from fotmem.measure.select.limits import Limits, LimitViolation, Prediction, violations
from fotmem.measure.setting import Setting
from fotmem.memory.config import StoreConfig, write_config

if TYPE_CHECKING:
    from fotmem.measure.select.predict import SettingMeasurement

ALIKE = 1.1
"""Of settings whose latencies differ by no more than this factor, the smaller one is chosen."""


@dataclass(frozen=True)
class Candidate:
    """A setting, its predicted cost and quality, and the limits that it does not keep."""

    setting: Setting
    predicted: Prediction
    violations: tuple[LimitViolation, ...]
    layers: tuple[int, ...]
    """Layers on which its error and recall were measured."""
    measured_tokens: int
    """Largest number of tokens at which they were measured."""
    ram_is_budget: bool = False
    """Whether its predicted RAM is the budget of its own option `ram`."""

    @property
    def fits(self) -> bool:
        """Whether it keeps all limits."""
        return not self.violations

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            **self.setting.model_dump(mode="json"),
            "predicted": self.predicted._asdict(),
            "violations": [each._asdict() for each in self.violations],
            "layers": list(self.layers),
            "measured_tokens": self.measured_tokens,
            "ram_is_budget": self.ram_is_budget,
        }

    @property
    def verdict(self) -> str:
        """The violated limits without figures; empty if it keeps all of them."""
        kinds = "; ".join(each.kind for each in self.violations)
        return f"rejected: {kinds}" if kinds else ""

    @property
    def reason(self) -> str:
        """Why it is rejected; empty if it is not."""
        reasons = "; ".join(each.reason for each in self.violations)
        return f"rejected: {reasons}" if reasons else ""


@dataclass(frozen=True)
class Selection:
    """The result of `fotmem.select`."""

    tokens: int
    captured: int
    """Captured tokens, with which stores are measured as far as time allows."""
    layers: tuple[int, ...]
    """The memory layers."""
    top_k: int | None
    """None: attention to all keys."""
    limits: Limits
    candidates: tuple[Candidate, ...]
    """All measured settings, in the order of stores."""
    excluded: Mapping[str, str]
    """Stores that were not measured, with the reason."""
    machine: Mapping[str, Any]

    @property
    def choice(self) -> Candidate | None:
        """The fastest setting that keeps all limits; among nearly equal ones, the smallest.

        Of one store, whose settings take the same RAM, that is the one with the smallest error.
        """
        fitting = [each for each in self.candidates if each.fits]
        if not fitting:
            return None
        quickest = min(each.predicted.latency for each in fitting)
        alike = [each for each in fitting if each.predicted.latency <= ALIKE * quickest]
        return min(alike, key=lambda each: (each.predicted.ram, each.predicted.error))

    @property
    def advice(self) -> str:
        """Which limit to relax if no setting fits; empty if one fits."""
        if self.choice is not None:
            return ""
        if not self.candidates:
            return "no store could be measured"
        single = [each for each in self.candidates if len(each.violations) == 1]
        if not single:
            nearest = min(self.candidates, key=_excess)
            cures = " ".join(each.cure for each in nearest.violations)
            return f"relaxing one limit is not enough: with {cures}, {nearest.setting} fits"
        ways = []
        for limit in dict.fromkeys(each.violations[0].limit for each in single):
            of_limit = [each for each in single if each.violations[0].limit == limit]
            nearest = min(of_limit, key=_excess)
            ways.append(f"with {nearest.violations[0].cure}, {nearest.setting} fits")
        return "; or ".join(ways)

    def best_of_stores(self) -> list[Candidate]:
        """Return a setting of each store: the choice, else the fastest, else the nearest to fit."""
        best = []
        for store in dict.fromkeys(each.setting.store for each in self.candidates):
            mine = [each for each in self.candidates if each.setting.store == store]
            if self.choice in mine:
                mine = [self.choice]
            best.append(min(mine, key=lambda each: (_excess(each), each.predicted.latency)))
        return best

    @property
    def summary(self) -> str:
        """The choice and the reason, or the limit to relax, in a sentence."""
        choice = self.choice
        if choice is None:
            return f"no store fits: {self.advice}"
        fitting = {each.setting.store for each in self.candidates if each.fits}
        why = "it is the only one that fits"
        if len(fitting) > 1:
            why = f"the fastest of {len(fitting)} that fit"
            if choice.predicted.latency > min(
                e.predicted.latency for e in self.candidates if e.fits
            ):
                why = f"nearly as fast as the fastest of {len(fitting)} that fit, with less RAM"
        return f"{choice.setting}: {why}"

    @property
    def _kept(self) -> str:
        return " for a memory in a directory" if self.limits.persistent else ""

    def write(self, file: Path | str) -> None:
        """Write the choice to a file for `attach`, ``ask`` and ``eval``.

        Raises
        ------
        InputError, StorageError
            No store fits; the file cannot be written.
        """
        if self.choice is None:
            raise InputError(f"there is nothing to write to {file}: {self.advice}")
        setting, predicted = self.choice.setting, self.choice.predicted
        write_config(
            file,
            StoreConfig(setting.store, setting.options),
            top_k="all" if self.top_k is None else None,
            comment=f"Chosen by fotmem select{self._kept}. {self.summary}",
            predicted={"tokens": self.tokens, "top_k": self.top_k, **predicted._asdict()},
        )

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            "tokens": self.tokens,
            "captured": self.captured,
            "layers": list(self.layers),
            "top_k": self.top_k,
            "limits": asdict(self.limits),
            "choice": None if self.choice is None else self.choice.as_dict(),
            "summary": self.summary,
            "candidates": [each.as_dict() for each in self.candidates],
            "excluded": dict(self.excluded),
            "machine": dict(self.machine),
        }


def _excess(candidate: Candidate) -> float:
    return sum(each.factor for each in candidate.violations)


def candidates(
    measured: Sequence[SettingMeasurement],
    predicted: Sequence[Prediction],
    limits: Limits,
    *,
    all_keys: bool = False,
) -> tuple[Candidate, ...]:
    """Compare the predictions for measured settings with the limits."""
    found = []
    for each, prediction in zip(measured, predicted, strict=True):
        found.append(
            Candidate(
                setting=each.setting,
                predicted=prediction,
                violations=tuple(violations(limits, prediction, all_keys=all_keys)),
                layers=tuple(sorted({one.layer for one in each.quality})),
                measured_tokens=max(one.tokens for one in each.quality),
                ram_is_budget=each.budget is not None,
            )
        )
    return tuple(found)
