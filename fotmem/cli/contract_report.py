"""How ``fotmem plugin check`` shows its report."""

import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from fotmem.plugin.specs import StoreSpec

if TYPE_CHECKING:
    from fotmem.testing.store.check import Outcome, Report

MOST_LINES = 40
"""Lines that are shown of one failure: the messages of Hypothesis can be long."""


def describe(console: Console, spec: StoreSpec) -> None:
    """Show what the store declares."""
    able = spec.capabilities
    console.print(
        f"{escape(spec.name)}: {'exact' if able.exact else 'approximate'}, on "
        f"{' and '.join(able.devices)}{', persistent' if able.persistent else ''}"
    )


def show_outcome(console: Console, outcome: "Outcome", again: str) -> None:
    """Show how a test ended; `again` is the command that repeats the check."""
    style = {"passed": "green", "failed": "bold red"}.get(outcome.outcome, "dim")
    label = {"passed": "ok", "failed": "FAILED"}.get(outcome.outcome, "-")
    skipped = outcome.outcome == "does not apply"
    what = f"{outcome.what} ({outcome.reason if skipped else f'{outcome.seconds:.2f} s'})"
    console.print(
        f"  [{style}]{label:<6}[/{style}] {escape(what)}",
        soft_wrap=True,
        highlight=False,
    )
    for failure in outcome.failures[:1]:
        message = failure["message"].splitlines()
        text = "\n".join([*message[:MOST_LINES], *(["..."] if len(message) > MOST_LINES else [])])
        case = f" [{failure['case']}]" if failure["case"] else ""
        others = len(outcome.failures) - 1
        more = f", and {others} more of its {outcome.cases} cases" if others else ""
        lines = f"{outcome.test}{case}{more}\n{text}\nrepeat it by: {again} --test {outcome.test}"
        console.print(textwrap.indent(lines, " " * 9), markup=False, soft_wrap=True)


def summarise(console: Console, report: "Report") -> None:
    """Show the bounds that were reached, the speed, and how many tests passed."""
    console.print()
    for name, figure in report.figures.items():
        console.print(
            f"{name} of the top 32: {figure['measured']:.4f}, must be at least "
            f"{figure['bound']:.4g}",
            soft_wrap=True,
        )
    _show_speed(console, report)
    for note in report.notes:
        console.print(f"note: {note}", soft_wrap=True, highlight=False, markup=False)
    counts = {
        kind: sum(outcome.outcome == kind for outcome in report.outcomes)
        for kind in ("passed", "failed", "does not apply")
    }
    style = "green" if report.passed else "bold red"
    console.print(
        f"[{style}]{counts['passed']} passed, {counts['failed']} failed[/{style}], "
        f"{counts['does not apply']} do not apply"
    )


def _show_speed(console: Console, report: "Report") -> None:
    """Show times as ratios to the exact store's, and say so where the store is always slower."""
    for row in report.speed:
        queries = "1 query" if row["queries"] == 1 else f"{row['queries']} queries"
        console.print(
            f"compared with exact, {row['keys']:,} keys, {queries} per head: search takes "
            f"{row['search']:.2f} times as long, attend {row['attend']:.2f} times",
            soft_wrap=True,
            highlight=False,
        )
    for call in report.slower:
        console.print(
            f"{call} is slower than that of the exact store at every size above. This is not a "
            "failure: an index may pay off with more keys. Or is there a loop over queries, or a "
            "pause in each call?",
            soft_wrap=True,
            highlight=False,
        )


def report_as_json(report: "Report", again: str) -> dict[str, Any]:
    """Return the report for ``--json``, with the command that repeats each test."""
    outcomes = [
        {**asdict(outcome), "again": f"{again} --test {outcome.test}"}
        for outcome in report.outcomes
    ]
    judged = {"passed": report.passed, "slower": report.slower}
    return {**judged, **asdict(report), "outcomes": outcomes}
