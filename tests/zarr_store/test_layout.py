"""The packages of the `zarr` store import downwards only: index < the rest."""

import ast

from tests.zarr_store.stores import ROOT

PACKAGE = ROOT / "backends" / "fotmem_zarr"


def level(module: str) -> int:
    """Rank of a module, such as ``fotmem_zarr.index.segment``."""
    return {"index": 0}.get(module.split(".")[1], 1)


def test_no_import_goes_upwards() -> None:
    for file in PACKAGE.rglob("*.py"):
        module = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fotmem_zarr."):
                assert level(str(node.module)) <= level(module), f"{module} imports {node.module}"
