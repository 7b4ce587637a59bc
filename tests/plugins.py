"""Third-party plugins, written to a folder as pip would install them."""

from pathlib import Path
from typing import Any

HEADER = """
from fotmem import create_store
from fotmem.plugin import AdapterSpec, StoreCapabilities, StoreSpec, hookimpl
from fotmem.stores import MemoryStore, StoreOptions

def build(**arguments):
    from fotmem_exact.store import ExactStore
    names = ("num_heads", "head_dim", "dtype", "device")
    store = ExactStore(**{name: arguments[name] for name in names})
    store.arguments = arguments
    return store

def spec(name, **fields):
    defaults = {"factory": f"{__name__}:build", "capabilities": StoreCapabilities(exact=True)}
    return StoreSpec(name=name, **{**defaults, **fields})
"""


def hook(answer: str, name: str = "fotmem_stores") -> str:
    return f"@hookimpl\ndef {name}():\n    return {answer}\n"


def install(
    folder: Path, name: str, code: str = "", *, entry_points: str = "", distribution: str = ""
) -> None:
    """Write a package with one module `plugin`, and its metadata."""
    package = folder / name
    package.mkdir(exist_ok=True)
    (package / "__init__.py").touch()
    (package / "plugin.py").write_text(HEADER + code, encoding="utf-8")
    metadata = folder / f"{distribution or name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution or name}\nVersion: 1.0\n", encoding="utf-8"
    )
    (metadata / "entry_points.txt").write_text(
        f"[fotmem]\n{entry_points or f'{name} = {name}.plugin'}\n", encoding="utf-8"
    )


def write_metadata(folder: Path, project: dict[str, Any]) -> None:
    """Declare the entry points of a `pyproject.toml`, as pip does when it installs a package."""
    name, version = project["name"], project["version"]
    metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir(exist_ok=True)  # installed again
    header = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (metadata / "METADATA").write_text(header, encoding="utf-8")
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        for group, points in project["entry-points"].items()
    ]
    (metadata / "entry_points.txt").write_text("".join(lines), encoding="utf-8")
