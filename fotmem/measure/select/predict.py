"""The measurements of stores, and predictions from them for a larger memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt
from statistics import fmean
from typing import NamedTuple

from fotmem.measure.bench.figures import Truth, query_figures, relative_errors
from fotmem.measure.bench.store_job import AllKeysAnswer, SizeResult
from fotmem.measure.select import extrapolate as laws
from fotmem.measure.select.limits import Prediction
from fotmem.measure.setting import Setting
from fotmem.plugin.create import find_store, validated_options


class Cost(NamedTuple):
    """The cost of a setting at some size, on one layer."""

    tokens: int
    latency: float
    """Seconds of attention with one query of each head."""
    read: float | None
    """Keys that a query is compared with; None where the store cannot count them."""
    ram: float
    """Bytes."""
    disk: float
    """Bytes."""


class LayerQuality(NamedTuple):
    """The quality of a setting at some size, on one layer."""

    tokens: int
    layer: int
    error: float
    """Excess error; of attention to all keys, the error against dense attention."""
    missed: float
    """Share of the exact top k that is not found: 1 minus recall."""
    estimated: float | None = None
    """Error that the store expects; None: it cannot tell."""


@dataclass
class SettingMeasurement:
    """The measurements of one setting."""

    setting: Setting
    budget: int | None = None
    """Most bytes that the store may take, on one layer; None: without a budget."""
    part: float = 1.0
    """Share of that budget that it had when it was measured. Its quality is assumed to be that of a
    memory that is larger by the same factor, with the whole budget."""
    costs: list[Cost] = field(default_factory=list)
    """By size, ascending."""
    quality: list[LayerQuality] = field(default_factory=list)

    def add_cost(self, result: SizeResult, place: int) -> None:
        """Add the cost of the store at some size."""
        mine = result.settings[place]
        read = None if mine.share_read is None else mine.share_read * result.size
        self.costs.append(Cost(result.size, mine.latency, read, result.ram, result.disk))

    def add_quality(self, result: SizeResult, place: int, layer: int, exact: Truth) -> None:
        """Add the quality of the store at some size."""
        answer = result.settings[place].answer
        assert answer is not None
        if isinstance(answer, AllKeysAnswer):
            error = float(relative_errors(answer.out, exact.out).mean())
            known = None if answer.estimated is None else float(answer.estimated.mean())
            self.quality.append(LayerQuality(result.size, layer, error, 0.0, known))
            return
        figures = query_figures(*answer, exact)
        error, recall = (float(each.mean()) for each in (figures.excess_error, figures.recall))
        self.quality.append(LayerQuality(result.size, layer, error, 1 - recall))

    def prediction(
        self,
        tokens: int,
        layers: int,
        *,
        seconds: float,
        error: float,
        missed: float,
        estimated: float | None,
    ) -> Prediction:
        """Predict RAM and disk at some size, in `layers` layers, and add the other figures."""
        sizes, _, _, ram, disk = zip(*self.costs, strict=True)
        memory = laws.amount(sizes, ram)(tokens) if self.budget is None else self.budget
        return Prediction(
            ram=layers * memory,
            disk=layers * laws.amount(sizes, disk)(tokens),
            latency=layers * seconds,
            error=error,
            recall=1 - missed,
            estimated_error=estimated,
        )

    def searches(self) -> laws.SearchCosts:
        """Return the costs of searching.

        A store that cannot count compared keys, such as a graph, gives only those among captured
        keys: a graph is too fast among repeated keys, which lie near their originals.
        """
        sizes, latencies, read, _, _ = zip(*self.costs, strict=True)
        if None not in read:
            return laws.SearchCosts(sizes, latencies, read)
        last = max(each.tokens for each in self.quality)
        captured = max(1, sum(size <= last for size in sizes))
        return laws.SearchCosts(sizes[:captured], latencies[:captured], None)

    def mean(self, name: str) -> dict[int, float]:
        """Return the mean of all layers by size, for the sizes measured on the first layer.

        A layer that was measured at fewer sizes is assumed to grow as the first one does: by the
        same amount, or, where its figure is lower, by the same amount of its square root.
        """
        by_layer: dict[int, dict[int, float]] = {}
        for each in self.quality:
            by_layer.setdefault(each.layer, {})[each.tokens] = getattr(each, name)
        first = next(iter(by_layer.values()))

        def at(size: int, layer: dict[int, float]) -> float:
            last = min(size, max(layer))
            if layer[last] >= first[last]:
                return layer[last] + first[size] - first[last]
            return max(0.0, sqrt(layer[last]) + sqrt(first[size]) - sqrt(first[last])) ** 2

        return {size: fmean(at(size, layer) for layer in by_layer.values()) for size in first}

    def effort(self) -> tuple[str, float]:
        """Return the key of settings that differ from it in search effort only, and the effort.

        The effort is the value of the first option of the store's grid, if it is a number; its
        reciprocal, if the grid, from little effort to much, descends.
        """
        setting, spec = self.setting, find_store(self.setting.store)
        dial, values = next(iter(spec.grid.items()), ("", ()))
        value = getattr(validated_options(spec, setting.options), dial, None)
        if not isinstance(value, int | float) or value <= 0:
            return setting.key, 1.0
        if len(values) > 1 and values[-1] < values[0]:
            value = 1 / value
        others = {name: value for name, value in setting.options.items() if name != dial}
        return Setting(store=setting.store, options=others).key, float(value)


def predict(measured: Sequence[SettingMeasurement], tokens: int, layers: int) -> list[Prediction]:
    """Predict the cost and quality of settings at some size, in `layers` layers."""
    efforts = [each.effort() for each in measured]
    families: dict[str, dict[float, SettingMeasurement]] = {}
    for (family, effort), each in zip(efforts, measured, strict=True):
        families.setdefault(family, {})[effort] = each
    seconds = {
        family: laws.costs({effort: each.searches() for effort, each in alike.items()})
        for family, alike in families.items()
    }
    shares = {
        family: [_shares(alike, name) for name in ("error", "missed", "estimated")]
        for family, alike in families.items()
    }
    found = []
    for (family, effort), each in zip(efforts, measured, strict=True):
        took = seconds[family][effort](tokens)
        error, missed, estimated = (
            None if law is None else law(effort, each.part * tokens) for law in shares[family]
        )
        assert error is not None
        assert missed is not None
        found.append(
            each.prediction(
                tokens, layers, seconds=took, error=error, missed=missed, estimated=estimated
            )
        )
    return found


def _shares(alike: dict[float, SettingMeasurement], name: str) -> laws.Shares | None:
    """Fit the law of settings that differ in effort only, at the sizes that they share.

    None: not all of them were measured.
    """
    if any(getattr(one, name) is None for each in alike.values() for one in each.quality):
        return None
    efforts = sorted(alike)
    means = [alike[effort].mean(name) for effort in efforts]
    sizes = sorted(set.intersection(*(set(mean) for mean in means)))
    return laws.shares(efforts, sizes, [[mean[size] for size in sizes] for mean in means])
