"""The layout: packages by reader, each of which imports only those before it."""

import ast
import graphlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import fotmem

ROOT = Path(__file__).parents[1]
ORDER = (
    *("errors", "arguments", "amounts", "interrupts", "outputs", "files", "progress"),  # the ground
    *("attention", "aging", "adapter"),
    *(
        "disk",
        "documents",
        "directory",
        "stores",
        "plugin",
        "models",
        "crossbatch",
        "memory",
        "tasks",
        "training",
        "measure",
    ),
    "",  # fotmem itself, for people who use it
    *("testing", "scaffold", "cli", "__main__"),
)
"""Modules and packages of fotmem, the lowest first."""


def modules(root: Path) -> dict[str, Path]:
    """Name every module of the packages in a source root."""
    return {
        ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file
        for file in sorted(root.glob("fotmem*/**/*.py"))
        if "template" not in file.parts
    }


MODULES = {
    name: file
    for root in (ROOT, ROOT / "backends", ROOT / "adapters")
    for name, file in modules(root).items()
}


def imports(source: str, known: object) -> Iterator[str]:
    """Yield the modules that a module imports: at its top, in functions, for type checkers."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            base = node.module or ""
            inner = (f"{base}.{name.name}" for name in node.names)
            yield from {name if name in known else base for name in inner}  # type: ignore[operator]


@cache
def all_imports() -> dict[str, set[str]]:
    """Return the modules of fotmem that each of them imports."""
    return {
        name: {found for found in imports(file.read_text("utf-8"), MODULES) if found in MODULES}
        for name, file in MODULES.items()
    }


def package(module: str) -> str:
    """Return the package of a module of fotmem, or the module itself; empty for fotmem itself."""
    return [*module.split("."), ""][1]


def rank(module: str) -> int:
    """Return the place of a module's package in `ORDER`."""
    return ORDER.index(package(module))


def upward(graph: dict[str, set[str]]) -> list[str]:
    """List the imports of a higher package."""
    return [
        f"{name} imports {other}"
        for name, others in graph.items()
        for other in sorted(others)
        if name.split(".")[0] == other.split(".")[0] == "fotmem" and rank(other) > rank(name)
    ]


def test_no_package_imports_a_higher_one() -> None:
    assert upward(all_imports()) == []


def test_no_import_goes_in_a_circle() -> None:
    try:
        graphlib.TopologicalSorter(all_imports()).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_all_packages_have_their_place() -> None:
    assert {package(name) for name in MODULES if name.split(".")[0] == "fotmem"} == set(ORDER)


def test_the_map_for_contributors_has_the_same_order() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    cells = re.findall(r"(?m)^\| (`.*?) \|", page.partition("## The map")[2].partition("## ")[0])
    assert [name for cell in cells for name in re.findall(r"`(\w+)`", cell)] == [
        name for name in ORDER if name and not name.startswith("_")
    ]


def test_no_module_bears_the_name_of_a_public_function() -> None:
    beside = {name.split(".")[1] for name in MODULES if name.startswith("fotmem.")}
    functions = {name for name in fotmem.__all__ if callable(getattr(fotmem, name))}
    assert beside & functions == set()


def test_imports_are_seen_wherever_they_stand() -> None:
    source = (
        "import fotmem.errors\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from fotmem.memory import cache\n"
        "def f():\n    from fotmem.memory.memory import Memory\n"
    )
    known = {"fotmem.errors", "fotmem.memory", "fotmem.memory.cache", "fotmem.memory.memory"}
    assert set(imports(source, known)) & known == known - {"fotmem.memory"}


def test_an_import_upwards_is_found() -> None:
    wrong = {"fotmem.stores.store": {"fotmem.plugin.specs", "fotmem.errors"}}
    assert upward(wrong) == ["fotmem.stores.store imports fotmem.plugin.specs"]
