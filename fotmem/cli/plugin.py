"""``fotmem plugin new`` and ``fotmem plugin check``."""

import functools
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape

from fotmem.cli.command import Command
from fotmem.cli.contract_report import describe, report_as_json, show_outcome, summarise
from fotmem.cli.options import Json, StoreOption
from fotmem.cli.parsing import parse_options
from fotmem.plugin.create import find_store

if TYPE_CHECKING:
    from fotmem.testing.store.check import Outcome

app = typer.Typer(no_args_is_help=True)
Tests = Annotated[
    list[str],
    typer.Option("--test", metavar="TEST", help="Only this test of the contract; may be repeated."),
]


@app.callback()
def _group() -> None:
    """Write a plugin, and check that it is right.

    Example: fotmem plugin check exact
    """


@app.command(cls=Command)
def new(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="Name of the new store, such as [bold]my-index[/bold]."
        ),
    ],
    base: Annotated[
        Literal["rows", "graph", "index", "store"],
        typer.Option(
            help="What finds keys. [bold]rows[/bold]: your own search of all keys. "
            "[bold]graph[/bold]: a library with one index per head, searched by Euclidean "
            "distance (HNSW and the like). [bold]index[/bold]: any other library. "
            "[bold]store[/bold]: a store that also keeps keys and values itself."
        ),
    ] = "rows",
    library: Annotated[
        str | None,
        typer.Option(
            metavar="PACKAGE",
            help="A package from PyPI to depend on; PACKAGE:MODULE where it is imported by another "
            "name, such as faiss-cpu:faiss.",
        ),
    ] = None,
    path: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder to write; default: fotmem-NAME in this one."),
    ] = None,
) -> None:
    """Write a package for a new store, which works and keeps the contract as it is written.

    Put your search, or your library, into its store.py.

    Example: fotmem plugin new my-store

    Example: fotmem plugin new my-graph --base graph --library usearch
    """
    from fotmem.scaffold import Library, write_package

    folder, needed = (
        path or Path(f"fotmem-{name}"),
        None if library is None else Library.parse(library),
    )
    files = write_package(name, folder, base=base, library=needed)
    print(f"{folder}: a package for the store {name!r}")
    for file in files:
        print(f"  {file}")
    if needed and ":" not in str(library) and needed.module != needed.package:
        print(
            f"{needed.package} is expected to be imported as {needed.module}; if it is not, begin "
            f"anew with --library {needed.package}:MODULE"
        )
    print(f"next: cd {shlex.quote(str(folder))} && pip install -e '.[dev]' && pytest")


@app.command(cls=Command)
def check(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A store, see [bold]fotmem stores[/bold].")
    ],
    option: StoreOption = [],  # noqa: B006 - typer copies it
    min_recall: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Recall that an approximate store must reach."),
    ] = None,
    min_mass: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Attention-mass recall that an approximate store must reach."
        ),
    ] = None,
    test: Tests = [],  # noqa: B006
    fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            help="Only the tests that take a few seconds, which find most mistakes. They leave out "
            "large stores, so that an index is not searched.",
        ),
    ] = False,
    large: Annotated[
        bool,
        typer.Option(
            "--large",
            help="Also the tests that take minutes and gigabytes: a million keys, ids beyond "
            "2**24, offsets beyond 2**31.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Check an installed store against the contract that every store keeps.

    Each line shows what was checked, and the seconds that it took. Below them, the report shows the
    recall of an approximate store, and how long search and attend take compared with the exact
    store.

    Example: fotmem plugin check hnsw --option ef_search=128

    Example: fotmem plugin check hnsw --fast
    """
    spec = find_store(name)
    options = parse_options(name, option)
    from fotmem.testing.store.check import check_store

    again = _again(name, option, min_recall, min_mass, large)
    run = functools.partial(
        check_store,
        name,
        options,
        min_recall=min_recall,
        min_mass=min_mass,
        tests=test,
        fast=fast,
        large=large,
    )
    console, progress = Console(), Console(stderr=True)
    shown: list[str] = []

    def show(outcome: "Outcome") -> None:
        if not shown:
            describe(console, spec)
        if outcome.subject not in shown:
            shown.append(outcome.subject)
            console.print(f"\n[bold]{escape(outcome.subject)}[/bold]")
        show_outcome(console, outcome, again)

    if as_json:
        report = run()
        print(json.dumps(report_as_json(report, again), indent=2))
    else:
        with progress.status(f"checking {escape(name)}"):
            report = run(show=show)
        summarise(console, report)
    if not report.passed:
        raise typer.Exit(1)


def _again(
    name: str, given: list[str], min_recall: float | None, min_mass: float | None, large: bool
) -> str:
    """Return the command that repeats this one, to which ``--test`` is added."""
    words = ["fotmem", "plugin", "check", name]
    for each in given:
        words += ["--option", each]
    for bound, number in (("--min-recall", min_recall), ("--min-mass", min_mass)):
        words += [] if number is None else [bound, str(number)]
    return shlex.join([*words, *(["--large"] if large else [])])
