"""Measures stores on a capture while they grow, in little time: what a choice is made from."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from functools import cache
from time import monotonic
from typing import NamedTuple

from fotmem.measure.bench.figures import Truth, captured_truth
from fotmem.measure.bench.process import StoreFailedError, Worker
from fotmem.measure.bench.worker import StoreJob
from fotmem.measure.capture import Capture
from fotmem.measure.select.predict import SettingMeasurement
from fotmem.measure.setting import Setting
from fotmem.plugin.create import find_store, validated_options

BEGIN = 8192
"""Tokens from which stores are measured: those with an index have one by then."""
BEYOND = 1.5
"""The first size beyond the capture, in units of it, and then doubled."""
LARGER = 4
"""In units of the capture, the size at which is measured what a store with a budget costs."""
FIRST = 0.6
"""Share of the time that goes to the first layer, on which costs are measured, too."""
BUDGET = "ram"
"""A store's own option of how many bytes it may take."""
SMALLEST = 2**23
"""Bytes of a budget, at least."""
AMPLE = 2.0
"""Shares of the time that is left which a store may take on another layer."""
LEAST = 5.0
"""Seconds that every store has to grow."""
QUERIES = 96
"""Of a head, by which stores are judged: at all sizes the same, of all places of the text. What
stores find differs by more from one place to the next than from one size to the next."""


def budget_of(setting: Setting) -> int | None:
    """Return the bytes that a store takes at most: its option `ram`, where it has one."""
    validated = validated_options(find_store(setting.store), setting.options)
    return getattr(validated, BUDGET, None)


def with_budget(setting: Setting, size: int) -> Setting:
    """Tell a store how many bytes it may take."""
    return setting.model_copy(update={"options": {**setting.options, BUDGET: size}})


Told = Callable[[Setting, str], None]


class StoreBuild(NamedTuple):
    """Settings that shared a build, on the first layer."""

    seconds: float
    """Of adding what is captured."""
    settings: list[Setting]
    sizes: list[int]
    """At which it was judged."""


class Calibration:
    """Measures settings on a capture.

    Every store grows in a process of its own: on the first layer, where costs are measured, also
    beyond what is captured; then, unless it is exact, on the other layers, the quickest store
    first. Each time it gets its share of what is left of the time.

    A store that has a budget, its option `ram`, gets one that is as much smaller as what it holds
    is smaller than what is foretold: or it would still hold everything in memory. What it costs is
    measured by itself, with more of both: with a small budget it works in small pieces.

    Parameters
    ----------
    capture : Capture
    tokens : int
        For which is foretold.
    top_k : int
    device : str
    threads : int, optional
    seconds : float
        That it may take.
    """

    def __init__(
        self,
        capture: Capture,
        *,
        tokens: int,
        top_k: int,
        device: str,
        threads: int | None,
        seconds: float,
    ) -> None:
        self.capture, self.tokens, self.top_k = capture, tokens, top_k
        self.device, self.threads, self.seconds = device, threads, seconds
        self.measured: list[SettingMeasurement] = []
        sizes = capture.info.sizes
        self._captured = [size for size in sizes if size >= BEGIN] or [sizes[-1]]
        self._truth = cache(self._exact)

    def run(self, settings: Sequence[Setting], failed: Told) -> Generator[str, None, None]:
        """Measure settings; tell which failed, and why.

        Yields
        ------
        str
            What comes next.
        """
        end = monotonic() + self.seconds
        approximate = yield from self._first(settings, end, failed)
        yield from self._others(approximate, end, failed)

    def _first(
        self, settings: Sequence[Setting], end: float, failed: Told
    ) -> Generator[str, None, list[StoreBuild]]:
        """Grow every store on the first layer; return the approximate ones.

        To take up what is captured, it may use time that is for the other layers.
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
        """Grow a store on the first layer, for the first of some settings and all that fit it.

        It has `most` seconds for what is captured, and `share` for more.
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
        judged = sorted({found.tokens for each in measured for found in each.found})
        return StoreBuild(seconds, [each.setting for each in measured], judged)

    def _cost_in_part(
        self, measured: Sequence[SettingMeasurement], seconds: float, most: float
    ) -> None:
        """Measure what settings cost with a part of their budget; judging them took `seconds`."""
        size = max(found.tokens for found in measured[0].found)
        larger = min(self.tokens, LARGER * size)
        if seconds * larger / size < most:
            size = larger
        settled, first = [each.setting for each in measured], self.capture.info.layers[0]
        self._grow(settled, first, [size], [most], costs=True, judged=False)
        if not measured[0].costs:
            raise _too_slow(size, most)

    def _others(self, built: list[StoreBuild], end: float, failed: Told) -> Iterator[str]:
        """Judge stores on the other layers, at the sizes that they reached on the first."""
        quickest = sorted(built, key=lambda each: each.seconds)
        turns = [(each, layer) for each in quickest for layer in self.capture.info.layers[1:]]
        for number, ((_, settled, sizes), layer) in enumerate(turns):
            left = end - monotonic()
            # What is judged at fewer sizes than on the first layer is foretold worse: the quick
            # stores had rather be done than all alike.
            share = min(left, AMPLE * left / (len(turns) - number))
            if share > 0 and any(each.setting in settled for each in self.measured):
                yield f"{settled[0].store}, layer {layer}"
                try:
                    self._grow(settled, layer, sizes, [share] * len(sizes), costs=False)
                except StoreFailedError as error:
                    self._give_up(settled, error, failed)

    def _give_up(self, group: Sequence[Setting], error: StoreFailedError, failed: Told) -> None:
        """Forget what was measured of a store that failed: nobody should use it."""
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
        judged: bool = True,
    ) -> float:
        """Build a store for a group's first setting; note what is learnt of all that fit it.

        Returns the seconds of adding what is captured.
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
        )
        with Worker(job) as worker:
            for grown in worker.grown(patience):
                for place, setting in enumerate(worker.settings):
                    mine = self._of(real[setting.key])
                    if costs:
                        mine.note(grown, place)
                    if judged and grown.size in self._captured:
                        mine.judge(grown, place, layer, self._truth(layer, grown.size))
                if grown.size in self._captured:
                    seconds += sum(grown.adds)
        return seconds

    def _of(self, setting: Setting) -> SettingMeasurement:
        for each in self.measured:
            if each.setting == setting:
                return each
        fitting = self._fitting(setting, self.capture.info.tokens)
        budget, told = map(budget_of, (setting, fitting))
        self.measured.append(
            SettingMeasurement(setting, budget, told / budget if told and budget else 1.0)
        )
        return self.measured[-1]

    def _fitting(self, setting: Setting, held: int) -> Setting:
        """Give a store with a budget the part that fits so many tokens."""
        budget, part = budget_of(setting), held / self.tokens
        if budget is None or part >= 1:
            return setting
        return with_budget(setting, min(budget, max(SMALLEST, int(part * budget))))

    def _beyond(self) -> Iterator[int]:
        """Yield sizes between that of the capture and that which is asked for."""
        size = int(BEYOND * self.capture.info.tokens)
        while size < self.tokens:
            yield size
            size *= 2

    def _exact(self, layer: int, size: int) -> Truth:
        queries = self.capture.spread_queries(layer, QUERIES)
        return captured_truth(self.capture, layer, size, queries, top_k=self.top_k)


def _too_slow(size: int, seconds: float) -> StoreFailedError:
    return StoreFailedError(f"did not take up {size:,} tokens in {seconds:.0f} s")
