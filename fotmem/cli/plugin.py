"""``fotmem plugin new`` and ``fotmem plugin check``."""

import functools
import json
import shlex
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from fotmem.cli.command import Command
from fotmem.cli.options import Json, StoreOption, parse_options
from fotmem.registry import find_store
from fotmem.specs import StoreSpec

if TYPE_CHECKING:
    from fotmem.testing.store.check import Outcome, Report

app = typer.Typer(no_args_is_help=True)
MOST_LINES = 40
"""Of one failure; what Hypothesis tells can be long."""
Tests = Annotated[
    list[str],
    typer.Option("--test", metavar="TEST", help="Only this test of the contract; may be repeated."),
]


@app.callback()
def _group() -> None:
    """Write a plugin, and prove it right.

    Example: fotmem plugin check exact
    """


@app.command(cls=Command)
def new(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Of the new store, such as [bold]my-index[/bold].")
    ],
    path: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder to write; default: fotmem-NAME in this one."),
    ] = None,
) -> None:
    """Write a package for a new store: it works, keeps the contract, and is yours to change.

    Example: fotmem plugin new my-index
    """
    from fotmem.scaffold import write_package

    folder = path or Path(f"fotmem-{name}")
    files = write_package(name, folder)
    print(f"{folder}: a package for the store {name!r}")
    for file in files:
        print(f"  {file}")
    print(f"next: cd {shlex.quote(str(folder))} && pip install -e '.[dev]' && pytest")


@app.command(cls=Command)
def check(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A store, see [bold]fotmem stores[/bold].")
    ],
    option: StoreOption = [],  # noqa: B006 - typer copies it
    min_recall: Annotated[
        float | None, typer.Option(min=0, max=1, help="Recall an approximate store must reach.")
    ] = None,
    min_mass: Annotated[
        float | None, typer.Option(min=0, max=1, help="Softmax mass it must reach.")
    ] = None,
    test: Tests = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Check an installed store against the contract that every store keeps.

    Example: fotmem plugin check hnsw --option ef_search=128
    """
    spec = find_store(name)
    options = parse_options(name, option)
    from fotmem.testing.store.check import check_store

    again = _again(name, option, min_recall, min_mass)
    run = functools.partial(
        check_store, name, options, min_recall=min_recall, min_mass=min_mass, tests=test
    )
    console, progress = Console(), Console(stderr=True)
    shown: list[str] = []

    def show(outcome: "Outcome") -> None:
        if not shown:
            _describe(console, spec)
        if outcome.subject not in shown:
            shown.append(outcome.subject)
            console.print(f"\n[bold]{escape(outcome.subject)}[/bold]")
        _show(console, outcome, again)

    if as_json:
        report = run()
        print(json.dumps(_as_json(report, again), indent=2))
    else:
        with progress.status(f"checking {escape(name)}"):
            report = run(show=show)
        _summarise(console, report)
    if not report.passed:
        raise typer.Exit(1)


def _again(name: str, given: list[str], min_recall: float | None, min_mass: float | None) -> str:
    """The command, to which ``--test`` is added."""
    words = ["fotmem", "plugin", "check", name]
    for each in given:
        words += ["--option", each]
    for bound, number in (("--min-recall", min_recall), ("--min-mass", min_mass)):
        words += [] if number is None else [bound, str(number)]
    return shlex.join(words)


def _describe(console: Console, spec: StoreSpec) -> None:
    able = spec.capabilities
    console.print(
        f"{escape(spec.name)}: {'exact' if able.exact else 'approximate'}, on "
        f"{' and '.join(able.devices)}{', persistent' if able.persistent else ''}"
    )


def _show(console: Console, outcome: "Outcome", again: str) -> None:
    style = {"held": "green", "failed": "bold red"}.get(outcome.outcome, "dim")
    label = {"held": "ok", "failed": "FAILED"}.get(outcome.outcome, "-")
    why = f" ({outcome.reason})" if outcome.outcome == "does not apply" else ""
    console.print(
        f"  [{style}]{label:<6}[/{style}] {escape(outcome.what + why)}",
        soft_wrap=True,
        highlight=False,
    )
    for failure in outcome.failures[:1]:
        lines = failure["message"].splitlines()
        text = "\n".join([*lines[:MOST_LINES], *(["..."] if len(lines) > MOST_LINES else [])])
        case = f" [{failure['case']}]" if failure["case"] else ""
        others = len(outcome.failures) - 1
        more = f", and {others} more of its {outcome.cases} cases" if others else ""
        told = f"{outcome.test}{case}{more}\n{text}\nsee it again: {again} --test {outcome.test}"
        console.print(textwrap.indent(told, " " * 9), markup=False, soft_wrap=True)


def _summarise(console: Console, report: "Report") -> None:
    console.print()
    for name, figure in report.figures.items():
        console.print(
            f"{name} of the top 32: {figure['measured']:.4f}, must be at least "
            f"{figure['bound']:.4g}",
            soft_wrap=True,
        )
    counts = {
        kind: sum(outcome.outcome == kind for outcome in report.outcomes)
        for kind in ("held", "failed", "does not apply")
    }
    style = "green" if report.passed else "bold red"
    console.print(
        f"[{style}]{counts['held']} held, {counts['failed']} failed[/{style}], "
        f"{counts['does not apply']} do not apply"
    )


def _as_json(report: "Report", again: str) -> dict[str, Any]:
    outcomes = [
        {**asdict(outcome), "again": f"{again} --test {outcome.test}"}
        for outcome in report.outcomes
    ]
    return {"passed": report.passed, **asdict(report), "outcomes": outcomes}
