import importlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torch import Tensor

import fotmem
from fotmem.stores import Hits, RowsStore
from tests.pages import NAMES, PAGES, blocks
from tests.public_names import (
    PUBLIC,
    PUBLIC_MODULES,
    foreign_private_names,
    names_used,
    private_names,
    reused_private_names,
)

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


@pytest.mark.thorough
def test_public_names_mean_the_same_in_whatever_order_they_are_imported() -> None:
    kinds = python(
        "import json; from fotmem import load_longllama, Memory; import fotmem;"
        "print(json.dumps({name: type(getattr(fotmem, name)).__name__ for name in dir(fotmem)}))"
    )
    assert isinstance(kinds, dict)
    assert [name for name, kind in kinds.items() if kind == "module"] == ["crossbatch", "errors"]


def test_all_lists_the_public_names() -> None:
    every = {name: getattr(fotmem, name) for name in fotmem.__all__}
    assert sorted(dir(fotmem)) == sorted(every)
    public = {
        name
        for name, value in vars(fotmem).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public - {"TYPE_CHECKING", "Any"} == set(every) - {"__version__", "crossbatch", "errors"}
    assert len(every) <= 20


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'fotmem' has no attribute 'recall'"):
        fotmem.recall  # noqa: B018


def test_the_check_below_sees_every_way_of_importing() -> None:
    source = (
        "import fotmem\nimport fotmem.stores.store\nfrom fotmem import Hits, _x, errors as e\n"
        "from fotmem.plugin.specs import StoreSpec\nfrom fotmem_exact.store import ExactStore\n"
        "def f():\n    from fotmem import merge\n    return fotmem.plugin.registry, fotmem.attach\n"
    )
    expected = ["stores.store", "Hits", "_x", "errors", "plugin.specs.StoreSpec", "merge"]
    expected += ["plugin", "attach"]
    assert sorted(names_used(source)) == sorted(expected)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.relative_to(ROOT)))
def test_plugins_import_only_public_names(source: Path) -> None:
    used = set(names_used(source.read_text(encoding="utf-8")))
    assert used - PUBLIC == set()


@pytest.mark.parametrize(
    "folder",
    [*PLUGINS, *(ROOT / "examples").glob("*-*"), *(ROOT / "fotmem/scaffold/template").iterdir()],
    ids=lambda folder: folder.name,
)
def test_plugins_use_no_private_name_of_fotmem(folder: Path) -> None:
    sources = [source.read_text("utf-8") for source in folder.rglob("*.py")]
    assert foreign_private_names(sources) == set()


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_pages_show_no_private_name_of_fotmem(page: Path) -> None:
    code = [block.code for block in blocks(page) if block.language == "python"]
    assert foreign_private_names(code) == set()
    named = re.findall(r"`(?:self\.)?(_[a-z]\w*)", page.read_text("utf-8"))
    assert not private_names() & set(named)


@pytest.mark.parametrize("name", ["exact", "faiss-flat", "faiss-ivf", "faiss-hnsw", "hnsw", "zarr"])
def test_stores_give_no_private_name_of_their_bases_another_meaning(name: str) -> None:
    kind = fotmem.available_stores()[name].load()
    assert isinstance(kind, type)
    assert reused_private_names(kind) == set()


class ReusingStore(RowsStore):
    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        self._mine = self._newest = None
        return super().search_rows(queries, top_k)  # type: ignore[safe-super]

    def _attend(self, *given: Any) -> Any:
        return super()._attend(*given)


def test_the_check_above_sees_private_names() -> None:
    source = (
        "class MyStore(RowsStore):\n    def _own(self):\n        self._mine = self._mine + 1\n"
        "        self._guard = self._lock\n        return super()._undo()\n"
    )
    assert foreign_private_names([source]) == {"_lock", "_undo"}
    assert reused_private_names(ReusingStore) == {"_newest", "_attend"}


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_modules_for_authors_of_plugins_list_their_names(name: str) -> None:
    module = importlib.import_module(f"fotmem.{name}")
    assert all(hasattr(module, each) for each in module.__all__)
    defined = {
        each
        for each, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__ and each[0] != "_"
    }
    assert defined <= set(module.__all__)


def test_entry_points_and_wheel_packages_are_the_folders() -> None:
    folders = {folder.name for folder in PLUGINS}
    assert "fotmem_exact" in folders
    declared = PROJECT["project"]["entry-points"]["fotmem"]
    assert declared == {name: f"{name}.plugin" for name in folders}
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    paths = {folder.relative_to(ROOT).as_posix() for folder in PLUGINS}
    assert set(packages) == {"fotmem", *paths}
