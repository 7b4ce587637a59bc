import ast
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import fotmem

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PLUGINS = sorted(
    folder for root in ("backends", "adapters") for folder in (ROOT / root).glob("fotmem_*")
)
SOURCES = [source for folder in PLUGINS for source in sorted(folder.rglob("*.py"))]
LIGHT = {"annotated_types", "pluggy", "pydantic", "pydantic_core", "typing_inspection"}


def python(code: str) -> object:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_importing_fotmem_imports_nothing_heavy() -> None:
    found = python(
        "import json, sys, torch; before = set(sys.modules); import fotmem;"
        "print(json.dumps(sorted({name.split('.')[0] for name in set(sys.modules) - before})))"
    )
    assert isinstance(found, list)
    new = {name for name in found if not name.startswith("_sysconfigdata")}
    assert new - set(sys.stdlib_module_names) - LIGHT == {"fotmem"}


def test_plugin_modules_and_stores_import_only_what_they_need() -> None:
    modules = ", ".join(f"{folder.name}.plugin" for folder in PLUGINS)
    found = python(
        f"import json, sys, fotmem, {modules}; fotmem.available_adapters();"
        "fotmem.create_store('exact', num_heads=1, head_dim=4);"
        "heavy = ('transformers', 'faiss', 'hnswlib', 'zarr', 'gguf', 'peft', 'accelerate');"
        "print(json.dumps([name for name in heavy if name in sys.modules]))"
    )
    assert found == []


SIDE_EFFECTS = """
import json, logging, os, sys, torch, warnings

def state():
    return [
        dict(os.environ), sys.path[:], len(sys.meta_path), sys.excepthook, warnings.filters[:],
        logging.root.handlers[:], torch.get_num_threads(), torch.is_grad_enabled(),
        str(torch.get_default_dtype()),
    ]

before = state()
import fotmem
print(json.dumps(before == state()))
"""


def test_importing_fotmem_has_no_side_effects() -> None:
    assert python(SIDE_EFFECTS) is True


def test_public_names_mean_the_same_in_whatever_order_they_are_imported() -> None:
    kinds = python(
        "import json; from fotmem import load_longllama, Memory; import fotmem;"
        "print(json.dumps({name: type(getattr(fotmem, name)).__name__ for name in dir(fotmem)}))"
    )
    assert isinstance(kinds, dict)
    assert [name for name, kind in kinds.items() if kind == "module"] == ["crossbatch"]


def test_all_lists_the_public_names() -> None:
    every = {name: getattr(fotmem, name) for name in fotmem.__all__}
    assert sorted(dir(fotmem)) == sorted(every)
    public = {
        name
        for name, value in vars(fotmem).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public - {"TYPE_CHECKING", "Any"} == set(every) - {"__version__", "crossbatch"}


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'fotmem' has no attribute 'recall'"):
        fotmem.recall  # noqa: B018


def names_used_of_fotmem(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fotmem":
            prefix = (node.module or "").removeprefix("fotmem").lstrip(".")
            yield from (f"{prefix}.{name.name}".lstrip(".") for name in node.names)
        elif isinstance(node, ast.Import):
            modules = [name.name for name in node.names if name.name.startswith("fotmem.")]
            yield from (module.removeprefix("fotmem.") for module in modules)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "fotmem":
            yield node.attr


def test_the_check_below_sees_every_way_of_importing() -> None:
    source = (
        "import fotmem\nimport fotmem.stores.store\nfrom fotmem import Hits, _x, errors as e\n"
        "from fotmem.plugin.specs import StoreSpec\nfrom fotmem_exact.store import ExactStore\n"
        "def f():\n    from fotmem import merge\n    return fotmem.plugin.registry, fotmem.attach\n"
    )
    expected = ["store", "Hits", "_x", "errors", "specs.StoreSpec", "merge", "registry", "attach"]
    assert sorted(names_used_of_fotmem(source)) == sorted(expected)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.relative_to(ROOT)))
def test_plugins_import_only_public_names(source: Path) -> None:
    used = set(names_used_of_fotmem(source.read_text(encoding="utf-8")))
    assert used - set(fotmem.__all__) == set()


def test_entry_points_and_wheel_packages_are_the_folders() -> None:
    folders = {folder.name for folder in PLUGINS}
    assert "fotmem_exact" in folders
    declared = PROJECT["project"]["entry-points"]["fotmem"]
    assert declared == {name: f"{name}.plugin" for name in folders}
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    paths = {folder.relative_to(ROOT).as_posix() for folder in PLUGINS}
    assert set(packages) == {"fotmem", *paths}
