"""Measures growing stores on a capture, within a time limit: the basis of a choice."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from functools import cache
from time import monotonic
from typing import NamedTuple

from fotmem.measure.bench.figures import Truth, captured_truth
from fotmem.measure.bench.process import StoreFailedError, Worker
from fotmem.measure.bench.store_job import StoreJob
from fotmem.measure.capture import Capture
from fotmem.measure.select.predict import SettingMeasurement
from fotmem.measure.setting import Setting
from fotmem.plugin.create import find_store, validated_options

BEGIN = 8192
"""Smallest number of tokens at which stores are measured: large enough to have an index."""
BEYOND = 1.5
"""First size beyond the capture, in units of the capture; the next ones double."""
LARGER = 4
"""Size at which the cost of a store with a budget is measured, in units of the capture."""
FIRST = 0.6
"""Share of the time for the first layer, on which costs are measured too."""
BUDGET = "ram"
"""Name of the option that limits the bytes of a store."""
SMALLEST = 2**23
"""Smallest budget, in bytes."""
AMPLE = 2.0
"""Most time of a store on another layer, in equal shares of the remaining time."""
LEAST = 5.0
"""Seconds that every store may take at least."""
QUERIES = 96
"""Queries of a head: the same at all sizes, from all places of the text. The quality of a store
differs more between places than between sizes."""


def budget_of(setting: Setting) -> int | None:
    """Return the most bytes that a store takes: its option `ram`, if it has one."""
    validated = validated_options(find_store(setting.store), setting.options)
    return getattr(validated, BUDGET, None)


def with_budget(setting: Setting, size: int) -> Setting:
    """Return the setting with a budget of `size` bytes."""
    return setting.model_copy(update={"options": {**setting.options, BUDGET: size}})


Report = Callable[[Setting, str], None]
"""Receives a setting that failed, and the reason."""


class StoreBuild(NamedTuple):
    """The settings of one build on the first layer."""

    seconds: float
    """Seconds of adding the captured tokens."""
    settings: list[Setting]
    sizes: list[int]
    """Sizes at which its quality was measured."""


class Calibration:
    """Measures settings on a capture.

    Every store grows in a process of its own. On the first layer, where costs are measured, it
    grows beyond the captured tokens. Then stores that are not exact grow on the other layers, the
    fastest one first. Each gets its share of the remaining time.

    A store with a budget, its option `ram`, gets a smaller one, in proportion to its tokens:
    otherwise it would hold everything in memory. Its cost is measured apart, with more tokens and
    more budget: with a small budget it works in small pieces, which takes longer.

    Parameters
    ----------
    capture : Capture
    tokens : int
        Number of tokens to predict for.
    top_k : int, optional
        None: attention to all keys.
    device : str
    threads : int, optional
    seconds : float
        Time limit.
    kept : bool
        Whether a memory's directory keeps the keys and values, and the index beside them.
    """

    def __init__(
        self,
        capture: Capture,
        *,
        tokens: int,
        top_k: int | None,
        device: str,
        threads: int | None,
        seconds: float,
        kept: bool = False,
    ) -> None:
        self.capture, self.tokens, self.top_k = capture, tokens, top_k
        self.device, self.threads, self.seconds = device, threads, seconds
        self.kept = kept
        self.measured: list[SettingMeasurement] = []
        sizes = capture.info.sizes
        self._captured = [size for size in sizes if size >= BEGIN] or [sizes[-1]]
        self._truth = cache(self._exact)

    def run(self, settings: Sequence[Setting], failed: Report) -> Generator[str, None, None]:
        """Measure settings; report those that failed.

        Yields
        ------
        str
            The next step.
        """
        end = monotonic() + self.seconds
        approximate = yield from self._first(settings, end, failed)
        yield from self._others(approximate, end, failed)

    def _first(
        self, settings: Sequence[Setting], end: float, failed: Report
    ) -> Generator[str, None, list[StoreBuild]]:
        """Grow every store on the first layer; return the approximate ones.

        Adding the captured tokens may use the time of the other layers.
        """
        early = end - (1 - FIRST) * self.seconds
        stores = list(dict.fromkeys(setting.store for setting in settings))
        waiting = [[each for each in settings if each.store == store] for store in stores]
        approximate = []
        for number, group in enumerate(waiting):
            yield f"{group[0].store}, layer {self.capture.info.layers[0]}"
            turns, now = len(waiting) - number, monotonic()
            most, share = (max(LEAST, (by - now) / turns) for by in (end, early))
            try:
                built = self._build(group, most, share)
            except StoreFailedError as error:
                self._give_up(group, error, failed)
                continue
            if not find_store(group[0].store).capabilities.exact:
                approximate.append(built)
            if left := [each for each in group if each not in built.settings]:
                waiting.append(left)
        return approximate

    def _build(self, group: Sequence[Setting], most: float, share: float) -> StoreBuild:
        """Grow a store on the first layer, for the first setting and all with the same build.

        It has `most` seconds for the captured tokens, and `share` seconds for more.
        """
        begin, known = monotonic(), len(self.measured)
        in_part = self._fitting(group[0], self.capture.info.tokens) != group[0]
        beyond = [] if in_part else list(self._beyond())
        sizes = [*self._captured, *beyond]
        patience = [most] * len(self._captured) + [share] * len(beyond)
        layer = self.capture.info.layers[0]
        seconds = self._grow(group, layer, sizes, patience, costs=not in_part)
        measured = self.measured[known:]
        if not measured:
            raise _too_slow(self._captured[0], most)
        if in_part:
            self._cost_in_part(measured, monotonic() - begin, most)
        reached = sorted({one.tokens for each in measured for one in each.quality})
        return StoreBuild(seconds, [each.setting for each in measured], reached)

    def _cost_in_part(
        self, measured: Sequence[SettingMeasurement], seconds: float, most: float
    ) -> None:
        """Measure costs with a part of the budget; measuring quality took `seconds`."""
        size = max(one.tokens for one in measured[0].quality)
        larger = min(self.tokens, LARGER * size)
        if seconds * larger / size < most:
            size = larger
        settled, first = [each.setting for each in measured], self.capture.info.layers[0]
        self._grow(settled, first, [size], [most], costs=True, quality=False)
        if not measured[0].costs:
            raise _too_slow(size, most)

    def _others(self, built: list[StoreBuild], end: float, failed: Report) -> Iterator[str]:
        """Measure quality on the other layers, at the sizes reached on the first one."""
        quickest = sorted(built, key=lambda each: each.seconds)
        turns = [(each, layer) for each in quickest for layer in self.capture.info.layers[1:]]
        for number, ((_, settled, sizes), layer) in enumerate(turns):
            left = end - monotonic()
            # Fewer sizes than on the first layer make predictions worse: it is better to finish the
            # fast stores than to treat all stores alike.
            share = min(left, AMPLE * left / (len(turns) - number))
            if share > 0 and any(each.setting in settled for each in self.measured):
                yield f"{settled[0].store}, layer {layer}"
                try:
                    self._grow(settled, layer, sizes, [share] * len(sizes), costs=False)
                except StoreFailedError as error:
                    self._give_up(settled, error, failed)

    def _give_up(self, group: Sequence[Setting], error: StoreFailedError, failed: Report) -> None:
        """Discard the measurements of a store that failed: it should not be chosen."""
        self.measured = [each for each in self.measured if each.setting not in group]
        failed(group[0], str(error))

    def _grow(
        self,
        group: Sequence[Setting],
        layer: int,
        sizes: Sequence[int],
        patience: Sequence[float],
        *,
        costs: bool,
        quality: bool = True,
    ) -> float:
        """Build a store for a group's first setting; measure all settings with the same build.

        Returns the seconds of adding the captured tokens.
        """
        seconds = 0.0
        devices = find_store(group[0].store).capabilities.devices
        held = max(sizes[-1], self.capture.info.tokens)
        smaller = [self._fitting(setting, held) for setting in group]
        real = {each.key: setting for each, setting in zip(smaller, group, strict=True)}
        job = StoreJob(
            capture=str(self.capture.directory),
            layer=layer,
            settings=tuple(smaller),
            queries=QUERIES,
            device=self.device,
            store_device=self.device if self.device in devices else "cpu",
            threads=self.threads,
            sizes=tuple(sizes),
            top_k=self.top_k,
            same_queries=True,
            costs=costs,
            opened=group[0] if self.kept else None,
        )
        with Worker(job) as worker:
            for result in worker.results(patience):
                for place, setting in enumerate(worker.settings):
                    mine = self._of(real[setting.key])
                    if costs:
                        mine.add_cost(result, place)
                    if quality and result.size in self._captured:
                        mine.add_quality(result, place, layer, self._truth(layer, result.size))
                if result.size in self._captured:
                    seconds += sum(result.inserts)
        return seconds

    def _of(self, setting: Setting) -> SettingMeasurement:
        for each in self.measured:
            if each.setting == setting:
                return each
        fitting = self._fitting(setting, self.capture.info.tokens)
        budget, part = map(budget_of, (setting, fitting))
        self.measured.append(
            SettingMeasurement(setting, budget, part / budget if part and budget else 1.0)
        )
        return self.measured[-1]

    def _fitting(self, setting: Setting, held: int) -> Setting:
        """Return the setting with the part of its budget that is in proportion to `held` tokens."""
        budget, part = budget_of(setting), held / self.tokens
        if budget is None or part >= 1:
            return setting
        return with_budget(setting, min(budget, max(SMALLEST, int(part * budget))))

    def _beyond(self) -> Iterator[int]:
        """Yield sizes between that of the capture and that to predict for."""
        size = int(BEYOND * self.capture.info.tokens)
        while size < self.tokens:
            yield size
            size *= 2

    def _exact(self, layer: int, size: int) -> Truth:
        queries = self.capture.spread_queries(layer, QUERIES)
        return captured_truth(self.capture, layer, size, queries, top_k=self.top_k or 1)


def _too_slow(size: int, seconds: float) -> StoreFailedError:
    return StoreFailedError(f"{size:,} tokens were not added in {seconds:.0f} s")
