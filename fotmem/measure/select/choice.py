"""Which setting suits a deployment best, why the others fell out, and what to do if all did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fotmem.errors import InputError
from fotmem.measure.select.limits import Limits, LimitViolation, Prediction, misses
from fotmem.measure.setting import Setting
from fotmem.memory.config import StoreConfig, write_config

if TYPE_CHECKING:
    from fotmem.measure.select.predict import SettingMeasurement

ALIKE = 1.1
"""Of settings whose latencies differ by no more than this factor, the smaller one is chosen."""


@dataclass(frozen=True)
class Candidate:
    """A setting, what is foretold of it, and which limits it misses."""

    setting: Setting
    foretold: Prediction
    misses: tuple[LimitViolation, ...]
    layers: tuple[int, ...]
    """On which its error and recall were measured."""
    judged: int
    """Tokens, the most, at which they were."""
    at_most: bool = False
    """Whether what is foretold of its RAM is what it may take, by an option of its own."""

    @property
    def fits(self) -> bool:
        """Whether it keeps all limits."""
        return not self.misses

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            **self.setting.model_dump(mode="json"),
            "foretold": self.foretold._asdict(),
            "misses": [miss._asdict() for miss in self.misses],
            "layers": list(self.layers),
            "judged": self.judged,
            "at_most": self.at_most,
        }

    @property
    def reason(self) -> str:
        """Why it falls out; empty if it does not."""
        return "; ".join(miss.reason for miss in self.misses)


@dataclass(frozen=True)
class Selection:
    """What `fotmem.select` found."""

    tokens: int
    captured: int
    """Tokens that stores were judged with, if they took them up in time."""
    layers: tuple[int, ...]
    """The memory layers."""
    top_k: int
    limits: Limits
    candidates: tuple[Candidate, ...]
    """All settings that were measured, in the order of stores."""
    excluded: Mapping[str, str]
    """Stores that were not measured, and why."""
    machine: Mapping[str, Any]

    @property
    def choice(self) -> Candidate | None:
        """The fastest that keeps all limits; of those that are nearly as fast, the smallest."""
        fitting = [each for each in self.candidates if each.fits]
        if not fitting:
            return None
        quickest = min(each.foretold.latency for each in fitting)
        alike = [each for each in fitting if each.foretold.latency <= ALIKE * quickest]
        return min(alike, key=lambda each: each.foretold.ram)

    @property
    def advice(self) -> str:
        """What to relax where nothing fits; empty where something does."""
        if self.choice is not None:
            return ""
        if not self.candidates:
            return "no store could be measured"
        single = [each for each in self.candidates if len(each.misses) == 1]
        if not single:
            nearest = min(self.candidates, key=_excess)
            cures = " ".join(miss.cure for miss in nearest.misses)
            return f"no limit alone is in the way: with {cures}, {nearest.setting} fits"
        ways = []
        for limit in dict.fromkeys(each.misses[0].limit for each in single):
            of_limit = [each for each in single if each.misses[0].limit == limit]
            nearest = min(of_limit, key=_excess)
            ways.append(f"with {nearest.misses[0].cure}, {nearest.setting} fits")
        return "; or ".join(ways)

    def best_of_stores(self) -> list[Candidate]:
        """Return a setting of each store: the choice, else the fastest, else what misses least."""
        best = []
        for store in dict.fromkeys(each.setting.store for each in self.candidates):
            mine = [each for each in self.candidates if each.setting.store == store]
            if self.choice in mine:
                mine = [self.choice]
            best.append(min(mine, key=lambda each: (_excess(each), each.foretold.latency)))
        return best

    @property
    def told(self) -> str:
        """The choice and why, or what to relax, in a sentence."""
        choice = self.choice
        if choice is None:
            return f"nothing fits: {self.advice}"
        fitting = {each.setting.store for each in self.candidates if each.fits}
        why = "it is the only one that fits"
        if len(fitting) > 1:
            why = f"the fastest of {len(fitting)} that fit"
            if choice.foretold.latency > min(e.foretold.latency for e in self.candidates if e.fits):
                why = f"nearly as fast as the fastest of {len(fitting)} that fit, and smaller"
        return f"{choice.setting}: {why}"

    def write(self, file: Path | str) -> None:
        """Write the choice to a file that `attach`, ``ask`` and ``eval`` take.

        Raises
        ------
        InputError, StorageError
            Nothing fits; the file cannot be written.
        """
        if self.choice is None:
            raise InputError(f"there is nothing to write to {file}: {self.advice}")
        setting, foretold = self.choice.setting, self.choice.foretold
        write_config(
            file,
            StoreConfig(setting.store, setting.options),
            comment=f"Chosen by fotmem select. {self.told}",
            foretold={"tokens": self.tokens, "top_k": self.top_k, **foretold._asdict()},
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
            "told": self.told,
            "candidates": [each.as_dict() for each in self.candidates],
            "excluded": dict(self.excluded),
            "machine": dict(self.machine),
        }


def _excess(candidate: Candidate) -> float:
    return sum(miss.factor for miss in candidate.misses)


def candidates(
    measured: Sequence[SettingMeasurement], foretold: Sequence[Prediction], limits: Limits
) -> tuple[Candidate, ...]:
    """Compare what is foretold of what was measured with the limits."""
    found = []
    for each, told in zip(measured, foretold, strict=True):
        on = tuple(sorted({one.layer for one in each.found}))
        judged = max(one.tokens for one in each.found)
        missed, bounded = tuple(misses(limits, told)), each.budget is not None
        found.append(Candidate(each.setting, told, missed, on, judged, at_most=bounded))
    return tuple(found)
