"""``fotmem stores``."""

import json

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fotmem.cli.options import Json
from fotmem.plugin.registry import registry
from fotmem.plugin.specs import StoreSpec


def stores(as_json: Json = False) -> None:
    """List the stores, which can be used here, and plugins with problems.

    Example: fotmem stores --json
    """
    found = registry()
    if as_json:
        rows = [
            {
                "name": name,
                "plugin": found.owners[spec],
                "available": spec.available,
                "reason": spec.reason,
            }
            for name, spec in found.stores.items()
        ]
        problems = [problem._asdict() for problem in found.problems]
        print(json.dumps({"stores": rows, "problems": problems}, indent=2))
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
    for problem in found.problems:
        console.print(
            f"[red]problem[/red] in plugin {escape(problem.plugin)}: {escape(problem.reason)}"
        )


def _note(spec: StoreSpec) -> str:
    if spec.note is None or not spec.available:
        return ""
    try:
        return spec.note()
    except (Exception, SystemExit) as error:  # a stranger's, or a library that fails to load
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
