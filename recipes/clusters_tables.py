"""The tables of `docs/benchmarks/clusters.md`."""

from collections.abc import Iterable, Sequence
from statistics import fmean, median
from typing import Any

from benchmarks.clusters.plan import DIFFUSE, Plan
from recipes.reports import table

Row = dict[str, Any]
Rows = list[Row]
SHARE = "share"
"""The setting that reads no more than the share of keys of the plan."""


def tables(rows: Rows, plan: Plan) -> str:
    """Write all tables."""
    parts = [
        ("Aims", aims(rows, plan)),
        ("Errors by layer", by_layer(rows)),
        ("Errors by setting", by_setting(rows)),
        ("Other stores at equal time", by_rival(rows)),
        ("Times", by_size(rows)),
        ("Adding", by_store(rows)),
        ("Estimated and true errors", calibrated(rows)),
    ]
    return "\n".join(f"### {title}\n\n{text}" for title, text in parts if text)


def of_kind(rows: Rows, *kinds: str) -> Rows:
    """Return the rows of some kinds."""
    return [row for row in rows if row["kind"] in kinds]


def errors_of(rows: Rows, name: str = SHARE) -> list[tuple[Row, Row]]:
    """Return rows of errors, each with the figures of one setting."""
    return [(row, row["settings"][name]) for row in of_kind(rows, "errors")]


def percent(share: float) -> str:
    """Format a share with two digits, or three from 10% on."""
    return f"{share:.2%}" if share < 0.01 else f"{share:.1%}"


def times_of(ratio: Sequence[float]) -> str:
    """Format a ratio with its middle half."""
    middle, low, high = (f"{each:.1f}" if each < 20 else f"{each:.0f}" for each in ratio)
    return f"{middle}x ({low} to {high})"


def place(row: Row) -> str:
    """Name what was read, and the layer."""
    return f"{row['model']}, {row['text']}, layer {row['layer']}"


# Aims


def aims(rows: Rows, plan: Plan) -> str:
    """Write what is to be reached, and what is."""
    found = errors_of(rows)
    body = []
    if found:
        tokens = f"{found[0][0]['tokens']:,} tokens"
        for where, most, some in (
            (f"layers {DIFFUSE[0]} and {DIFFUSE[1]}", 0.05, DIFFUSE),
            ("every layer", 0.1, plan.layers),
        ):
            here = [(row, each) for row, each in found if row["layer"] in some]
            name = f"mean error, {plan.share:.0%} of the keys read, {tokens}, {where}"
            body.append([name, f"at most {most:.0%}", *_errors(here, most)])
        name = "the same: error of exact top-k with as many keys, in units of ours"
        body.append([name, "at least 4x", *_against_best(found)])
    body += [*_equal_time(rows), *_costs(rows)]
    return table(["figure", "aim", "measured", "reached"], body)


def _errors(found: list[tuple[Row, Row]], most: float) -> list[str]:
    row, worst = max(found, key=lambda pair: float(pair[1]["error"]))
    mean = fmean(each["error"] for _, each in found)
    reached = sum(each["error"] <= most for _, each in found)
    told = f"mean {percent(mean)}, worst {percent(worst['error'])} ({place(row)})"
    return [told, f"{reached} of {len(found)}"]


def _against_best(found: list[tuple[Row, Row]]) -> list[str]:
    ratios = [each["best_error"] / each["error"] for _, each in found]
    reached = sum(each >= 4 for each in ratios)
    told = f"median {median(ratios):.1f}x, least {min(ratios):.1f}x"
    return [told, f"{reached} of {len(found)}"]


def _equal_time(rows: Rows) -> Iterable[list[str]]:
    found = of_kind(rows, "rivals")
    for name in found[0]["rivals"] if found else ():
        ratios = [row["rivals"][name]["error"] / row["error"] for row in found]
        told = f"its error is {median(ratios):.1f}x ours (median), at least {min(ratios):.1f}x"
        reached = sum(ratio > 1 for ratio in ratios)
        yield [f"`{name}` at equal time", "larger error", told, f"{reached} of {len(found)}"]


STEPS = {65_536: 10, 262_144: 40, 1_048_576: 100}
WINDOWS = {65_536: 4, 262_144: 12}


def _costs(rows: Rows) -> Iterable[list[str]]:
    for row in of_kind(rows, "step", "window", "tenfold"):
        least = {"step": STEPS, "window": WINDOWS}.get(row["kind"], {}).get(row["tokens"])
        told, size = times_of(row["ratio"]), f"{row['tokens']:,} tokens, {_timed(row)}"
        if row["kind"] == "tenfold":
            reached = _yes(row["ratio"][0] <= 1.5)
            yield [f"a step with ten times the memory, {size}", "at most 1.5x", told, reached]
        elif least is not None:
            name = "a decoding step" if row["kind"] == "step" else "a window of 512 queries a head"
            reached = _yes(row["ratio"][0] >= least)
            yield [f"{name} against dense, {size}", f"{least}x faster", told, reached]
    for row in of_kind(rows, "adding"):
        if row["store"] == "clusters":
            speed, ratio = row["tokens_per_second"], row["longest"] / row["median"]
            name = f"adding {row['tokens']:,} tokens, 8 heads of 64"
            told, reached = f"{speed:,.0f} tokens/s", _yes(speed >= 20_000)
            yield [name, "20,000 tokens/s", told, reached]
            yield ["longest `add`", "10x the median", f"{ratio:.1f}x", _yes(ratio <= 10)]
    for row in of_kind(rows, "ram"):
        more, process = (row[key] / row["rows"] - 1 for key in ("ram_bytes", "resident"))
        told = f"{percent(more)} by its count, {percent(process)} of the process"
        name = f"RAM beyond keys and values, {row['tokens']:,} tokens"
        yield [name, "at most 5%", told, _yes(more <= 0.05)]


def _timed(row: Row) -> str:
    return f"layer {row['layer']}, {row['caches']} caches"


def _yes(reached: bool) -> str:
    return "yes" if reached else "no"


# More of each


def by_layer(rows: Rows) -> str:
    """Write the errors of each layer of each model: means over texts, and the worst text."""
    body = []
    layers = dict.fromkeys((row["model"], row["layer"]) for row in of_kind(rows, "errors"))
    for model, layer in layers:
        some = [
            (row, each)
            for row, each in errors_of(rows)
            if (row["model"], row["layer"]) == (model, layer)
        ]
        worst, _ = max(some, key=lambda pair: float(pair[1]["error"]))
        means = _means([each for _, each in some], "error", "error_p95", "best_error", "peaked")
        most = percent(max(each["error"] for _, each in some))
        texts = f"{most} ({worst['text']})"
        body.append([model, str(layer), means[0], texts, *means[1:]])
    head = ["model", "layer", "error", "worst text", "95 of 100 queries", "exact top-k", "peaked"]
    return table(head, body) if body else ""


def by_setting(rows: Rows) -> str:
    """Write the errors of each setting: means over models, texts and layers."""
    found = of_kind(rows, "errors")
    body = []
    for name in found[0]["settings"] if found else ():
        some = [(row["tokens"], row["settings"][name]) for row in found]
        read = percent(fmean(each["read"] / tokens for tokens, each in some))
        means = _means([each for _, each in some], "error", "error_p95", "best_error")
        body.append([name, read, *means])
    head = ["setting", "keys read", "error", "95 of 100 queries", "exact top-k"]
    return table(head, body) if body else ""


def _means(some: Rows, *names: str) -> list[str]:
    return [percent(fmean(each[name] for each in some)) for name in names]


def by_rival(rows: Rows) -> str:
    """Write the errors of `clusters` and of the other stores' best settings in the same time."""
    body = []
    for row in of_kind(rows, "rivals"):
        cells = [row["model"], row["text"], str(row["layer"]), percent(row["error"])]
        for each in row["rivals"].values():
            cells += [percent(each["error"]), f"{each['setting']}, {times_of(each['ratio'])}"]
        body.append(cells)
    names = (f"`{name}`" for row in of_kind(rows, "rivals")[:1] for name in row["rivals"])
    head = ["model", "text", "layer", "`clusters`"]
    for name in names:
        head += [name, "its setting and time"]
    return table(head, body) if body else ""


def by_size(rows: Rows) -> str:
    """Write the times of steps and windows."""
    body = []
    for row in of_kind(rows, "step", "window"):
        seconds = (row["clusters"], *row["dense"].values())
        cells = [
            row["kind"],
            _timed(row),
            f"{row['tokens']:,}",
            *(f"{1e3 * each:,.1f} ms" for each in seconds),
        ]
        body.append([*cells, times_of(row["ratio"])])
    head = ["", "of", "tokens", "`clusters`", "dense, bfloat16", "dense, float32", "ratio"]
    return table(head, body) if body else ""


def by_store(rows: Rows) -> str:
    """Write the speed of adding to `clusters` and to another store."""
    body = [
        [
            f"`{row['store']}`",
            f"{row['tokens']:,}",
            f"{row['tokens_per_second']:,.0f}",
            *(f"{1e3 * row[key]:.0f} ms" for key in ("median", "longest")),
        ]
        for row in of_kind(rows, "adding")
    ]
    head = ["store", "tokens", "tokens/s", "median `add`", "longest `add`"]
    return table(head, body) if body else ""


def calibrated(rows: Rows) -> str:
    """Write estimated against true errors: means of bins of queries, over all layers."""
    found = [each["calibration"] for _, each in errors_of(rows, "default")]
    bins = [[fmean(each) for each in zip(*some, strict=True)] for some in zip(*found, strict=True)]
    body = [
        [f"{number} of {len(bins)}", *map(percent, means)] for number, means in enumerate(bins, 1)
    ]
    return table(["queries, by estimated error", "estimated", "true"], body) if body else ""
