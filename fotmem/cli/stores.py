"""``fotmem stores``."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fotmem.cli.offers import print_json, print_problems, row
from fotmem.cli.options import Json
from fotmem.plugin.registry import registry
from fotmem.plugin.specs import StoreSpec


def stores(as_json: Json = False) -> None:
    """List the stores, whether they are available here, and plugins with problems.

    Example: fotmem stores --json
    """
    found = registry()
    if as_json:
        print_json("stores", [row(spec) for spec in found.stores.values()])
        return
    console = Console()
    table = Table("store", "plugin", "exact", "on disk", "devices", "available")
    for name, spec in found.stores.items():
        able = spec.capabilities
        table.add_row(
            name,
            found.owners[spec],
            "yes" if able.exact else "no",
            "yes" if able.persistent else "no",
            ", ".join(able.devices),
            escape(spec.reason or "; ".join(filter(None, ["yes", _note(spec)]))),
        )
    console.print(table)
    print_problems(console)


def _note(spec: StoreSpec) -> str:
    if spec.note is None or not spec.available:
        return ""
    try:
        return spec.note()
    except (Exception, SystemExit) as error:  # a stranger's, or a library that fails to load
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
