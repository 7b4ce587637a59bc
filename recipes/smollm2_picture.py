"""Draws how often the pass key is found: the mean of all texts, the worst, and each of them."""

from collections.abc import Mapping
from pathlib import Path
from statistics import mean

from matplotlib.figure import Figure as Picture

from recipes.text_tables import Reports

PICTURE = Path("docs/passkey.png")
CURVES = (
    (("passkey-base",), False, "without memory, mean", "o:k"),
    (("passkey-base",), True, "base model, with memory, mean", "s--C1"),
    (("passkey", "passkey-long"), True, "tuned, with memory, mean", "o-C0"),
)
"""Reports, whether there is memory, label and style."""
Curve = dict[int, float]
"""Exact match by tokens."""


def draw(texts: Mapping[str, Reports], picture: Path = PICTURE) -> None:
    """Draw exact match against tokens, where it was measured."""
    if not any(reports.get("passkey") for reports in texts.values()):
        return
    figure = Picture(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for names, memory, label, style in CURVES:
        curves = [curve(reports, names, memory=memory) for reports in texts.values()]
        middle = {size: mean(at_size(curves, size)) for size in sizes(curves)}
        axes.plot(list(middle), list(middle.values()), style, label=label)
    for one in curves:  # of the tuned model, the last
        axes.plot(list(one), list(one.values()), "-C0", alpha=0.3, linewidth=1)
    worst = {size: min(at_size(curves, size)) for size in sizes(curves)}
    axes.plot(list(worst), list(worst.values()), "v-C3", label="tuned, with memory, worst text")
    axes.set(xscale="log", xlabel="tokens of text", ylabel="exact match", ylim=(-0.04, 1.04))
    ticks = sizes(curves)
    axes.set_xticks(ticks, [f"{tick // 1024}k" for tick in ticks])
    axes.minorticks_off()
    axes.legend(loc="center right", fontsize=8)
    axes.set_title("SmolLM2-135M, window 512: a five-digit number in test texts")
    figure.savefig(picture, dpi=120)


def curve(reports: Reports, names: tuple[str, ...], *, memory: bool) -> Curve:
    """Return the curve of a text."""
    rows = [row for name in names for row in reports.get(name, []) if row["memory"] == memory]
    return {row["tokens"]: row["exact_match"] for row in rows}


def sizes(curves: list[Curve]) -> list[int]:
    """Return all numbers of tokens."""
    return sorted({size for one in curves for size in one})


def at_size(curves: list[Curve], size: int) -> list[float]:
    """Return the values of the curves that have this number of tokens."""
    return [one[size] for one in curves if size in one]
