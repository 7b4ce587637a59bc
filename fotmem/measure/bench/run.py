"""Measures settings of stores on a capture: builds them, asks them and times them in turn."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple, TypeVar

from pydantic import ValidationError

from fotmem.arguments import differing
from fotmem.errors import FotmemError, InputError, require_packages
from fotmem.measure.bench.figures import Truth, captured_truth, search_figures
from fotmem.measure.bench.process import StoreFailedError, Worker
from fotmem.measure.bench.report import (
    REFERENCE,
    AllKeysRow,
    BenchReport,
    Failure,
    GrowthRow,
    Row,
)
from fotmem.measure.bench.store_job import SizeResult, StoreAnswer, StoreJob
from fotmem.measure.bench.timed_setting import (
    BuiltStore,
    TimedAttention,
    TimedSearch,
    TimedSetting,
)
from fotmem.measure.capture import Capture
from fotmem.measure.machine import describe_machine, versions
from fotmem.measure.setting import Setting, first_of
from fotmem.outputs import check_file, check_folder
from fotmem.plugin.create import find_store
from fotmem.plugin.registry import available_stores

_Kind = TypeVar("_Kind", AllKeysRow, GrowthRow, Failure)
SHARE_OF_RAM = 0.5
"""Share of the free memory that stores of one batch may take together."""


@dataclass(frozen=True)
class Plan:
    """How stores are measured."""

    top_k: tuple[int, ...] = (1, 32, 128)
    queries: int = 256
    """Queries of each head."""
    rounds: int = 5
    """Rounds of timing: in each, all settings of a batch are timed once, in random order."""
    device: str = "cpu"
    threads: int | None = None
    seed: int = 0
    """Seed of the order."""


class BenchStep(NamedTuple):
    """The next step of the work, and how much is done."""

    what: str
    done: int
    """Of `Bench.steps`."""


class Bench:
    """Measures settings on layers of a capture, and keeps the report up to date on disk.

    Parameters
    ----------
    capture : Capture
    settings : sequence of Setting
    layers : sequence of int
        Of the capture.
    file : Path
        Of the report. Settings that it has already are not measured again.
    plan : Plan

    Raises
    ------
    MissingPackageError
        psutil or scipy are not installed.
    InputError, StorageError
        `file` is the report of another capture, or of another plan; it cannot be written.
    """

    def __init__(
        self,
        capture: Capture,
        settings: Sequence[Setting],
        layers: Sequence[int],
        file: Path,
        plan: Plan,
    ) -> None:
        require_packages("fotmem bench", "psutil", "scipy")
        self.capture, self.settings, self.layers = capture, settings, layers
        self.file, self.plan = file, plan
        check_folder(file.parent, inputs=[capture.directory])
        check_file(file)
        self.report = BenchReport(
            capture=capture.info.model_dump(mode="json"),
            machine=describe_machine(),
            versions=versions(),
            measured={name: _plain(value) for name, value in vars(plan).items()},
        )
        if file.exists():
            before = BenchReport.read(file)
            if before.capture != self.report.capture:
                raise InputError(f"{file} is the report of another capture: name a new folder")
            if differ := differing(before.measured, self.report.measured):
                raise InputError(
                    f"{file} is the report of another run, with {differ}: name a new folder"
                )
            self.report = before

    def missing(self, layer: int) -> list[Setting]:
        """Return the settings without a row for a layer; failed ones are tried again."""
        done = [row.setting for row in self.report.rows if row.layer == layer]
        return [setting for setting in self.settings if setting not in done]

    @property
    def steps(self) -> int:
        """Count the steps of the missing settings: building, asking, and rounds of timing."""
        return self._rounds * sum(len(self.missing(layer)) for layer in self.layers)

    @property
    def _rounds(self) -> int:
        return 2 + self.plan.rounds

    def run(self) -> Generator[BenchStep, None, None]:
        """Measure the missing settings.

        Yields
        ------
        BenchStep
            Before a store is built, and before each round of timing.
        """
        import psutil

        done = 0
        for layer in self.layers:
            self._truths: dict[int, Truth] = {}
            left = self.missing(layer)
            while left:
                batch: list[BuiltStore] = []
                room = SHARE_OF_RAM * psutil.virtual_memory().available
                with ExitStack() as workers:
                    before = len(left)
                    while left and room > 0:
                        what = f"layer {layer}: building {left[0]}"
                        yield BenchStep(what, done + before - len(left))
                        built = self._build(layer, left, workers)
                        settled = [left[0]] if built is None else built.settings
                        left = [setting for setting in left if setting not in settled]
                        if built is not None:
                            batch.append(built)
                            room -= built.ram
                    count = before - len(left)
                    for number, what in enumerate(self._measure(layer, batch)):
                        ready = done + count * (1 + number)
                        yield BenchStep(f"layer {layer}: {what}", ready)
                    done += count * self._rounds

    def _build(self, layer: int, left: Sequence[Setting], workers: ExitStack) -> BuiltStore | None:
        """Build a store for the first setting, and for all settings with the same build."""
        setting, plan = left[0], self.plan
        try:
            devices = find_store(setting.store).capabilities.devices
            job = StoreJob(
                capture=str(self.capture.directory),
                layer=layer,
                settings=tuple(each for each in left if each.store == setting.store),
                queries=plan.queries,
                device=plan.device,
                store_device=plan.device if plan.device in devices else "cpu",
                threads=plan.threads,
                sizes=self.capture.info.sizes,
                top_k=max(plan.top_k),
            )
            with ExitStack() as begun:
                built = BuiltStore(begun.enter_context(Worker(job)))
                growth = [row for each in built.sizes for row in self._growth(built, layer, each)]
                workers.enter_context(begun.pop_all())
        except (StoreFailedError, FotmemError, ValidationError) as error:
            reason = str(error)
            if isinstance(error, ValidationError):
                reason = f"its answers are no figures: {first_of(error)}"
            self._keep(failures=[Failure(setting=setting, layer=layer, reason=reason)])
            return None
        self._keep(growth=growth)
        return built

    def _growth(self, built: BuiltStore, layer: int, result: SizeResult) -> Iterator[GrowthRow]:
        for setting, mine in zip(built.settings, result.settings, strict=True):
            assert isinstance(mine.answer, StoreAnswer)
            figures = search_figures(*mine.answer, self._truth(layer, result.size))
            yield GrowthRow(
                setting=setting,
                layer=layer,
                top_k=max(self.plan.top_k),
                size=result.size,
                recall=figures.recall,
                attention_mass_recall=figures.attention_mass_recall,
                error=figures.error,
                excess_error=figures.excess_error,
                share_read=mine.share_read,
                median_insert_latency=median(result.inserts),
                max_insert_latency=max(result.inserts),
                ram=result.ram / result.size,
                latency=mine.latency,
            )

    def _measure(self, layer: int, batch: Sequence[BuiltStore]) -> Iterator[str]:
        """Ask all settings of a batch, then time them in turn; yield the name of each step."""
        units = [
            unit
            for built in batch
            for setting in built.settings
            for unit in self._units(built, setting)
        ]
        draw = random.Random(f"{self.plan.seed} {layer}")
        for number in range(-1, self.plan.rounds):
            yield "asking" if number < 0 else f"timing, round {number + 1} of {self.plan.rounds}"
            draw.shuffle(units)
            for unit in list(units):
                try:
                    unit.ask() if number < 0 else unit.time(number)
                except StoreFailedError as error:  # its process has ended
                    units = [each for each in units if each.built is not unit.built]
                    lost = unit.built.settings
                    self._keep(
                        failures=[Failure(setting=s, layer=layer, reason=str(error)) for s in lost]
                    )
        exact, number = self._truth(layer, self.capture.info.tokens), self._next_batch()
        each_top_k = (*self.plan.top_k, None)
        order = [(str(setting), top_k) for setting in self.settings for top_k in each_top_k]
        units.sort(key=lambda unit: order.index((str(unit.setting), unit.top_k)))
        references = {
            unit.top_k: unit for unit in units if unit.setting == Setting(store=REFERENCE)
        }
        rows: list[Row | AllKeysRow] = []
        failures: list[Failure] = []
        for unit in units:
            try:
                rows.append(unit.row(layer, number, exact, references.get(unit.top_k)))
            except ValidationError as error:
                reason = f"its answers are no figures: {first_of(error)}"
                failures.append(Failure(setting=unit.setting, layer=layer, reason=reason))
        self._keep(
            rows=[row for row in rows if isinstance(row, Row)],
            all_keys=[row for row in rows if isinstance(row, AllKeysRow)],
            failures=failures,
        )

    def _units(self, built: BuiltStore, setting: Setting) -> Iterator[TimedSetting]:
        """Yield what is measured of a setting."""
        for top_k in self.plan.top_k:
            yield TimedSearch(built, setting, top_k)
        if _estimates(setting) or (
            setting == Setting(store=REFERENCE) and any(map(_estimates, self.settings))
        ):
            yield TimedAttention(built, setting)

    def _truth(self, layer: int, size: int) -> Truth:
        if size not in self._truths:
            queries = self.capture.queries(layer, size)[:, : self.plan.queries]
            self._truths[size] = captured_truth(
                self.capture, layer, size, queries, top_k=max(self.plan.top_k)
            )
        return self._truths[size]

    def _next_batch(self) -> int:
        return 1 + max((row.batch for row in self.report.rows), default=-1)

    def _keep(
        self,
        *,
        rows: Sequence[Row] = (),
        all_keys: Sequence[AllKeysRow] = (),
        growth: Sequence[GrowthRow] = (),
        failures: Sequence[Failure] = (),
    ) -> None:
        """Add rows to the report, in place of older ones about the same, and write it."""
        new = {each.about for each in (*rows, *failures)}
        grown = {each.about for each in growth}
        attended = {each.about for each in all_keys}
        self.report = self.report.model_copy(
            update={
                "rows": (*self.report.rows, *rows),
                "all_keys": (*_others(self.report.all_keys, attended), *all_keys),
                "growth": (*_others(self.report.growth, grown), *growth),
                "failures": (*_others(self.report.failures, new), *failures),
            }
        )
        self.report.write(self.file)


def _estimates(setting: Setting) -> bool:
    """Return whether a store attends to all keys by reading a part of them."""
    spec = available_stores().get(setting.store) or find_store(setting.store)
    return spec.capabilities.estimates_tail


def _others(rows: Iterable[_Kind], about: set[tuple[str, int]]) -> Iterator[_Kind]:
    return (row for row in rows if row.about not in about)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
