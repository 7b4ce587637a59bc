"""What was measured of stores, and what is foretold from it for a larger memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt
from statistics import fmean
from typing import NamedTuple

from fotmem.measure.bench.figures import Truth, compare
from fotmem.measure.bench.worker import SizeResult
from fotmem.measure.select import extrapolate as laws
from fotmem.measure.select.limits import Prediction
from fotmem.measure.setting import Setting
from fotmem.plugin.create import find_store, validated_options


class Cost(NamedTuple):
    """What a setting takes at some size, on one layer."""

    tokens: int
    latency: float
    """Seconds of attention with one query of each head."""
    read: float | None
    """Keys that a query is compared with; None where the store cannot tell."""
    ram: float
    """Bytes."""
    disk: float
    """Bytes."""


class LayerQuality(NamedTuple):
    """What a setting finds at some size, on one layer."""

    tokens: int
    layer: int
    error: float
    missed: float
    """What is not found of the exact top k: 1 less the recall."""


@dataclass
class SettingMeasurement:
    """What was measured of one setting."""

    setting: Setting
    budget: int | None = None
    """Bytes that the store may take at most, of one layer; None: it takes what it needs."""
    part: float = 1.0
    """Of that budget, which it had when it was measured. What it finds is taken to be what a
    memory finds that is as much larger, with all of the budget."""
    costs: list[Cost] = field(default_factory=list)
    """By size, ascending."""
    found: list[LayerQuality] = field(default_factory=list)

    def note(self, grown: SizeResult, place: int) -> None:
        """Note what the store took at some size."""
        tuned = grown.tuned[place]
        read = None if tuned.share_read is None else tuned.share_read * grown.size
        self.costs.append(Cost(grown.size, tuned.one, read, grown.ram, grown.disk))

    def judge(self, grown: SizeResult, place: int, layer: int, exact: Truth) -> None:
        """Note what the store found at some size."""
        answer = grown.tuned[place].answer
        assert answer is not None
        judged = compare(*answer, exact)
        error, recall = (float(each.mean()) for each in (judged.topk_error, judged.recall))
        self.found.append(LayerQuality(grown.size, layer, error, 1 - recall))

    def foretold(
        self, tokens: int, layers: int, *, seconds: float, error: float, missed: float
    ) -> Prediction:
        """Foretell memory at some size, in so many layers, beside the rest of one layer."""
        sizes, _, _, ram, disk = zip(*self.costs, strict=True)
        memory = laws.amount(sizes, ram)(tokens) if self.budget is None else self.budget
        return Prediction(
            ram=layers * memory,
            disk=layers * laws.amount(sizes, disk)(tokens),
            latency=layers * seconds,
            error=error,
            recall=1 - missed,
        )

    def searches(self) -> laws.SearchCosts:
        """Return what searching took; of a store that cannot tell what it reads, when captured.

        Where keys lie beside their likes, as they do beyond the capture, a graph is soon through.
        """
        sizes, latencies, read, _, _ = zip(*self.costs, strict=True)
        if None not in read:
            return laws.SearchCosts(sizes, latencies, read)
        last = max(found.tokens for found in self.found)
        judged = max(1, sum(size <= last for size in sizes))
        return laws.SearchCosts(sizes[:judged], latencies[:judged], None)

    def mean(self, name: str) -> dict[int, float]:
        """Return the mean of all layers by size, for those at which the first was judged.

        A layer that was judged at fewer goes on as the first does: by as much, or, where its figure
        is lower, as much less as square roots tell. Those of what a graph misses grow evenly.
        """
        by_layer: dict[int, dict[int, float]] = {}
        for found in self.found:
            by_layer.setdefault(found.layer, {})[found.tokens] = getattr(found, name)
        first = next(iter(by_layer.values()))

        def at(size: int, layer: dict[int, float]) -> float:
            last = min(size, max(layer))
            if layer[last] >= first[last]:
                return layer[last] + first[size] - first[last]
            return max(0.0, sqrt(layer[last]) + sqrt(first[size]) - sqrt(first[last])) ** 2

        return {size: fmean(at(size, layer) for layer in by_layer.values()) for size in first}

    def effort(self) -> tuple[str, float]:
        """Return which settings differ from it by effort only, and how much a search may spend.

        That is the value of the first option of the store's grid, if it is a number.
        """
        setting, spec = self.setting, find_store(self.setting.store)
        dial = next(iter(spec.grid), "")
        value = getattr(validated_options(spec, setting.options), dial, None)
        if not isinstance(value, int | float) or value <= 0:
            return setting.key, 1.0
        others = {name: value for name, value in setting.options.items() if name != dial}
        return Setting(store=setting.store, options=others).key, float(value)


def foretell(measured: Sequence[SettingMeasurement], tokens: int, layers: int) -> list[Prediction]:
    """Foretell what settings take and find at some size, in so many layers."""
    efforts = [each.effort() for each in measured]
    families: dict[str, dict[float, SettingMeasurement]] = {}
    for (family, effort), each in zip(efforts, measured, strict=True):
        families.setdefault(family, {})[effort] = each
    seconds = {
        family: laws.costs({effort: each.searches() for effort, each in alike.items()})
        for family, alike in families.items()
    }
    shares = {
        family: [_shares(alike, name) for name in ("error", "missed")]
        for family, alike in families.items()
    }
    found = []
    for (family, effort), each in zip(efforts, measured, strict=True):
        took = seconds[family][effort](tokens)
        error, missed = (law(effort, each.part * tokens) for law in shares[family])
        found.append(each.foretold(tokens, layers, seconds=took, error=error, missed=missed))
    return found


def _shares(alike: dict[float, SettingMeasurement], name: str) -> laws.Shares:
    """Fit the law of what settings miss that differ by effort, at the sizes they have in common."""
    efforts = sorted(alike)
    means = [alike[effort].mean(name) for effort in efforts]
    sizes = sorted(set.intersection(*(set(mean) for mean in means)))
    return laws.shares(efforts, sizes, [[mean[size] for size in sizes] for mean in means])
