"""``fotmem eval ruler --stores``: settings of stores answer about the same reading."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import TYPE_CHECKING

from fotmem.cli.evaluate.answers import ask_in_window, ask_without_memory
from fotmem.cli.evaluate.compare import advance, show
from fotmem.cli.evaluate.task import Task, interval
from fotmem.cli.evaluate.window_share import EXPLAINED

if TYPE_CHECKING:
    from fotmem.measure.evaluate.ruler.sample import Sample


def compare_stores(
    task: Task, samples: partial[list[Sample]], sizes: list[int], names: list[str]
) -> None:
    """Ask the tasks with these names in texts of these lengths; show the results.

    `samples` makes those of a task.
    """
    from fotmem.measure.evaluate.alternatives.asked_texts import of_samples
    from fotmem.measure.evaluate.ruler.compare import compare
    from fotmem.measure.evaluate.ruler.rows import RulerRow, mean_of_needles

    kept = task.kept(RulerRow)
    for size, name in product(sizes, names):
        missing = kept.missing(size, task.settings, name)
        if not missing:
            continue
        some, label = samples(name, tokens=size), f"{size:,} tokens, {name}, "
        texts = of_samples(some)
        without_memory = ask_without_memory(task, label, texts)
        in_window = ask_in_window(task, label, texts)
        with task.attach() as memory:
            steps = compare(
                task.model,
                task.tokenizer,
                some,
                memory,
                missing,
                kept,
                task=name,
                tokens=size,
                without_memory=without_memory,
                in_window=in_window,
                passages=task.options["passages"],
                attend=task.options["attend"],
            )
            advance(f"{label}with memory   ", steps, len(texts) * len(missing))
    for size, setting in product(sizes, task.settings):
        about = (size, setting.store, setting.options)
        found = [row for row in kept.rows if (row.tokens, row.store, row.options) == about]
        if not kept.has(*about, "needles"):
            for mean in mean_of_needles(found):
                kept.add(mean)
    show(
        kept,
        "with memory",
        EXPLAINED["with memory"],
        lambda row: f"{row.with_memory:.2f} ({interval(row.with_memory_interval)})",
        as_json=task.options["as_json"],
        tasks=True,
    )
