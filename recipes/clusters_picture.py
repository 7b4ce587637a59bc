"""The picture of `docs/benchmarks/clusters.md`: errors by layer and by keys read, and times."""

from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from fotmem.measure.bench.plot import COLOURS, MARKERS, PAGE_WIDTH
from fotmem.outputs import write_picture
from recipes.clusters_tables import Row, Rows, errors_of, of_kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(rows: Rows, file: Path) -> None:
    """Write a PNG: a panel of errors for each model, then errors by keys read, and times."""
    from matplotlib.figure import Figure

    errors, steps = of_kind(rows, "errors"), of_kind(rows, "step")
    models = dict.fromkeys(row["model"] for row in errors)
    panels = [partial(_by_layer, model, rows) for model in models]
    if errors:
        panels.append(partial(_by_keys, errors))
    if steps:
        panels.append(partial(_by_tokens, steps))
    height = (len(panels) + 1) // 2
    picture = Figure(figsize=(PAGE_WIDTH, 3.1 * height), layout="constrained")
    every = picture.subplots(height, 2, squeeze=False).flatten()
    for axes, panel in zip(every, panels, strict=False):
        panel(axes)
        axes.grid(which="both", alpha=0.2)
        axes.legend(fontsize=8)
    for axes in every[len(panels) :]:
        axes.set_axis_off()
    write_picture(picture, file)


def _by_layer(model: str, rows: Rows, axes: "Axes") -> None:
    found = [pair for pair in errors_of(rows) if pair[0]["model"] == model]
    ours = [(row["layer"], each["error"]) for row, each in found]
    best = [(row["layer"], each["best_error"]) for row, each in found]
    _means(axes, 0, "clusters, 1% of the keys", ours)
    _means(axes, 1, "exact top-k, as many keys", best)
    some = [row for row in of_kind(rows, "rivals") if row["model"] == model]
    for number, name in enumerate(some[0]["rivals"] if some else ()):
        pairs = [(row["layer"], row["rivals"][name]["error"]) for row in some]
        _means(axes, number + 2, f"{name}, equal time", pairs)
    axes.set(yscale="log", xlabel="layer", ylabel="error of the attention output")
    axes.set_title(model, loc="left")


def _means(axes: "Axes", number: int, name: str, pairs: list[tuple[int, float]]) -> None:
    """Draw every value, and a line through the means of each x."""
    places = sorted({x for x, _ in pairs})
    colour, mark = COLOURS[number], MARKERS[number]
    axes.plot([x for x, _ in pairs], [y for _, y in pairs], mark, ms=2.5, color=colour, alpha=0.5)
    means = [fmean(y for x, y in pairs if x == place) for place in places]
    axes.plot(places, means, f"{mark}-", ms=4, lw=1, color=colour, label=name)


def _by_keys(found: Rows, axes: "Axes") -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    names = [*found[0]["settings"]]
    by_budget, by_error = (
        [name for name in names if name.startswith(option)] for option in ("budget", "target_error")
    )
    for number, (some, figure, label) in enumerate(
        (
            (by_budget, "error", "clusters, by budget"),
            (by_budget, "best_error", "exact top-k, as many keys"),
            (by_error, "error", "clusters, by target error"),
        )
    ):
        points = sorted(_point([row["settings"][name] for row in found], figure) for name in some)
        look, colour = f"{MARKERS[number]}-", COLOURS[number]
        axes.plot(*zip(*points, strict=True), look, ms=4, lw=1, color=colour, label=label)
    axes.set(xscale="log", yscale="log", xlabel="keys that a query reads")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("mean error, all layers")


def _point(settings: list[Row], figure: str) -> tuple[float, float]:
    return fmean(each["read"] for each in settings), fmean(each[figure] for each in settings)


def _by_tokens(found: Rows, axes: "Axes") -> None:
    found = [row for row in found if row["caches"] == "cold"]
    names = dict.fromkeys(row["layer"] for row in found)
    layers = {layer: [row for row in found if row["layer"] == layer] for layer in names}
    dense = [
        (row["tokens"], 1e3 * row["dense"][row["fastest"]]) for row in next(iter(layers.values()))
    ]
    sides = {"dense attention": dense} | {
        f"clusters, layer {layer}": [(row["tokens"], 1e3 * row["clusters"]) for row in some]
        for layer, some in layers.items()
    }
    for (name, points), number in zip(sides.items(), (4, 0, 1), strict=False):
        line = f"{MARKERS[number]}-"
        axes.plot(*zip(*points, strict=True), line, color=COLOURS[number], label=name)
    axes.set(xscale="log", yscale="log", xlabel="remembered tokens")
    axes.set_ylabel("decoding step of a layer (ms)")
