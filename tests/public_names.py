"""Which names of fotmem a source uses, and which of them it may use."""

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path

import fotmem

PUBLIC_MODULES = (
    *("adapter", "attention", "disk", "documents", "errors", "plugin", "stores", "testing"),
)
PUBLIC = set(fotmem.__all__) | {
    f"{module}.{name}"
    for module in PUBLIC_MODULES
    for name in import_module(f"fotmem.{module}").__all__
}
"""As `names_used` returns them: without ``fotmem.``."""


def names_used(source: str) -> Iterator[str]:
    """Names that a source takes from fotmem, in whatever way."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fotmem":
            prefix = (node.module or "").removeprefix("fotmem").lstrip(".")
            yield from (f"{prefix}.{name.name}".lstrip(".") for name in node.names)
        elif isinstance(node, ast.Import):
            modules = [name.name for name in node.names if name.name.startswith("fotmem.")]
            yield from (module.removeprefix("fotmem.") for module in modules)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "fotmem":
            yield node.attr


def foreign_private_names(sources: Iterable[str]) -> set[str]:
    """Private names of fotmem's that these sources of one package use and do not define."""
    used, defined = set[str](), set[str]()
    for node in (node for source in sources for node in ast.walk(ast.parse(source))):
        if isinstance(node, ast.Attribute) and _is_private(node.attr):
            (used if isinstance(node.ctx, ast.Load) else defined).add(node.attr)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            defined.update(target.id for target in targets if isinstance(target, ast.Name))
    return (used - defined) & private_names()


def reused_private_names(kind: type) -> set[str]:
    """Private names that a class of a plugin shares with its base classes in fotmem."""
    bases = [base for base in kind.__mro__ if base.__module__.split(".")[0] == "fotmem"]
    others = [base for base in kind.__mro__ if base not in bases and base is not object]
    theirs, ours = ({name for each in some for name in _names_of(each)} for some in (bases, others))
    return theirs & ours


@functools.cache
def private_names() -> frozenset[str]:
    """Private names of the classes of fotmem, and of their instances."""
    files = Path(fotmem.__file__).parent.rglob("*.py")
    trees = (ast.walk(ast.parse(file.read_text("utf-8"))) for file in files)
    kinds = (node for tree in trees for node in tree if isinstance(node, ast.ClassDef))
    return frozenset(name for kind in kinds for name in _own_names(kind))


def _names_of(kind: type) -> Iterator[str]:
    if kind.__module__ == "abc":
        return
    [tree] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    yield from _own_names(tree)


def _own_names(kind: ast.ClassDef) -> Iterator[str]:
    for node in ast.walk(kind):
        if isinstance(node, ast.FunctionDef) and _is_private(node.name):
            yield node.name
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and _is_private(node.attr)
            and ast.unparse(node.value) in ("self", "twin", "store")
        ):
            yield node.attr


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")
