"""``fotmem models``."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fotmem.cli.offers import print_json, print_problems, row
from fotmem.cli.options import Json
from fotmem.plugin.registry import registry


def models(as_json: Json = False) -> None:
    """List the model families that can have memory, and plugins with problems.

    Example: fotmem models --json
    """
    found = registry()
    if as_json:
        rows = [
            row(spec) | {"architectures": spec.architectures} for spec in found.adapters.values()
        ]
        print_json("models", rows)
        return
    console = Console()
    table = Table("adapter", "architectures", "plugin", "available")
    for name, spec in found.adapters.items():
        architectures = escape(", ".join(spec.architectures))
        table.add_row(name, architectures, found.owners[spec], escape(spec.reason or "yes"))
    console.print(table)
    print_problems(console)
