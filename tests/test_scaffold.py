"""The packages that `fotmem plugin new` writes are right as they are."""

import importlib
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

from fotmem.scaffold import BASES, LONGEST, Base, Library, write_package
from tests import plugins
from tests.commands import ONE_THREAD
from tests.public_names import PUBLIC, foreign_private_names, names_used

ROOT = Path(__file__).parents[1]
FILES = [
    ".github/workflows/ci.yml",
    ".gitignore",
    "README.md",
    "fotmem_my_index/__init__.py",
    "fotmem_my_index/options.py",
    "fotmem_my_index/plugin.py",
    "fotmem_my_index/py.typed",
    "fotmem_my_index/store.py",
    "pyproject.toml",
    "tests/test_my_index.py",
]
NAMES = ["a", "my-index", "k2-tree-3", f"{'w' * 15}-{'m' * 16}"]
LIBRARY = Library("untyped-knn", "untyped_knn")
UNTYPED = '''
class Index:
    """Compares all vectors."""

    def __init__(self, dim):
        self.dim = dim
'''
AROUND = '''
import untyped_knn


class UntypedGraph(MyGraphGraph):
    """A graph that keeps an object of a library without types."""

    def __init__(self, head_dim: int, options: MyGraphOptions) -> None:
        super().__init__(head_dim, options)
        self.index = untyped_knn.Index(head_dim)
'''
INDEXED = [
    word
    for test in (
        "recall",
        "forgetting_in_a_large_store",
        "indexed_scores",
        "indexed_copies",
        "tuning",
    )
    for word in ("--test", f"test_{test}")
]
"""Tests of the contract that search an index; `--fast` leaves them out."""
each_base = pytest.mark.parametrize("base", BASES)


class Packages(NamedTuple):
    """A package for each base class, as they are written."""

    folder: Path
    site: Path
    """Where their metadata is, as if they were installed."""

    def of(self, base: str) -> Path:
        return self.folder / base


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    folder, site = tmp_path_factory.mktemp("packages"), tmp_path_factory.mktemp("site")
    for base in BASES:
        library = LIBRARY if base == "graph" else None
        write_package(f"my-{base}", folder / base, base=base, library=library)
        install(folder / base, site)
    (site / "untyped_knn.py").write_text(UNTYPED, "utf-8")
    return Packages(folder, site)


def written(folder: Path) -> list[str]:
    return sorted(
        file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()
    )


def run(folder: Path, *command: str, path: tuple[Path, ...] = ()) -> str:
    """Run a tool as its author would in this folder, with the packages in `path` installed."""
    ended = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=os.environ | ONE_THREAD | {"PYTHONPATH": search_path(*path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def search_path(*folders: Path) -> str:
    return os.pathsep.join(filter(None, [*map(str, folders), os.environ.get("PYTHONPATH")]))


def install(folder: Path, into: Path) -> None:
    into.mkdir(exist_ok=True)
    project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    plugins.write_metadata(into, project)


@pytest.mark.parametrize(
    "base",
    [pytest.param(base, marks=pytest.mark.thorough) if base != "graph" else base for base in BASES],
)
def test_it_keeps_the_contract_as_written(packages: Packages, base: Base) -> None:
    """As far as `--fast` goes; where there is an index, also what searches it."""
    folder = packages.of(base)
    tests = INDEXED if base in ("graph", "index") else ["--fast"]
    path = (folder, packages.site)
    told = run(folder, "fotmem", "plugin", "check", f"my-{base}", *tests, path=path)
    assert ", 0 failed, " in told


@pytest.mark.thorough
def test_its_own_tests_run(packages: Packages) -> None:
    """Two of them: that they are the contract's is the same for all."""
    folder = packages.of("rows")
    chosen = ("-k", "test_best_first or test_softmax_mass", "-p", "no:cacheprovider")
    assert "2 passed" in run(folder, "pytest", "-q", *chosen, path=(folder, packages.site))


@pytest.mark.thorough
@each_base
def test_all_of_its_own_tests_pass(packages: Packages, base: Base) -> None:
    folder = packages.of(base)
    run(folder, "pytest", "-q", "-p", "no:cacheprovider", path=(folder, packages.site))


@pytest.mark.thorough
def test_its_types_are_right_also_around_a_library_without_types(
    packages: Packages, tmp_path: Path
) -> None:
    """One run for all: what takes time is to read the types of torch."""
    folder = packages.of("graph")
    around = tmp_path / "fotmem_around"
    around.mkdir()
    code = (folder / "fotmem_my_graph" / "store.py").read_text("utf-8")
    (around / "__init__.py").touch()
    (around / "store.py").write_text(code + AROUND, "utf-8")
    files = [str(packages.of(base) / f"fotmem_my_{base}") for base in BASES]
    files += [str(packages.of(base) / "tests" / f"test_my_{base}.py") for base in BASES]
    cache = ("--cache-dir", str(ROOT / ".mypy_cache" / "packages"))
    configuration = ("--config-file", str(folder / "pyproject.toml"))
    path = (packages.site, *map(packages.of, BASES))
    run(tmp_path, "mypy", *cache, *configuration, *files, str(around), path=path)


@each_base
@pytest.mark.parametrize("name", NAMES)
def test_its_style_is_right_for_names_of_any_length(tmp_path: Path, name: str, base: Base) -> None:
    assert max(map(len, NAMES)) == LONGEST
    library = Library(f"{'p' * 64}", f"{'m' * 64}") if len(name) == LONGEST else None
    write_package(name, tmp_path / "package", base=base, library=library)
    run(tmp_path / "package", "ruff", "check", "--no-cache", ".")
    run(tmp_path / "package", "ruff", "format", "--no-cache", "--check", ".")


@each_base
def test_a_new_package_is_complete_and_has_the_name_of_its_store(
    tmp_path: Path, base: Base
) -> None:
    assert [path.as_posix() for path in write_package("my-index", tmp_path, base=base)] == FILES
    assert written(tmp_path) == FILES
    for file in FILES:
        text = (tmp_path / file).read_text("utf-8")
        assert "sample" not in text.lower(), file
    declared = tomllib.loads((tmp_path / "pyproject.toml").read_text("utf-8"))["project"]
    assert declared["name"] == "fotmem-my-index"
    assert declared["entry-points"] == {"fotmem": {"fotmem_my_index": "fotmem_my_index.plugin"}}
    assert declared["dependencies"] == ["fotmem"]
    assert {"fotmem[testing]"} == set(declared["optional-dependencies"]["test"])
    assert "class MyIndexStore(" in (tmp_path / "fotmem_my_index/store.py").read_text("utf-8")
    plugin = (tmp_path / "fotmem_my_index/plugin.py").read_text("utf-8")
    assert 'name="my-index"' in plugin
    assert 'factory="fotmem_my_index.store:MyIndexStore"' in plugin


@pytest.mark.parametrize(
    "text, package, module",
    [
        ("usearch", "usearch", "usearch"),
        ("K-NN.lib", "K-NN.lib", "k_nn_lib"),
        ("f-cpu:f.x", "f-cpu", "f.x"),
    ],
)
def test_its_library_stands_where_it_must(
    tmp_path: Path, text: str, package: str, module: str
) -> None:
    write_package("my-index", tmp_path, library=Library.parse(text))
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["dependencies"] == ["fotmem", package]
    [override] = project["tool"]["mypy"]["overrides"]
    assert override == {"module": [f"{module}.*"], "ignore_missing_imports": True}
    assert project["tool"]["mypy"]["untyped_calls_exclude"] == ["torch", module]
    plugin = (tmp_path / "fotmem_my_index/plugin.py").read_text("utf-8")
    assert (
        f'\n        requires=("{module}",),\n        install="pip install {package}",\n' in plugin
    )


@each_base
def test_its_readme_has_the_options(
    packages: Packages, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(packages.of(base))
    module = importlib.import_module(f"fotmem_my_{base}.options")
    fields = getattr(module, f"My{base.capitalize()}Options").model_fields
    readme = (packages.of(base) / "README.md").read_text("utf-8")
    shown = {line.split("`")[1] for line in readme.splitlines() if line.startswith("| `")}
    assert {name for name in shown if "." not in name} == set(fields)


def test_it_is_listed(packages: Packages) -> None:
    """What needs a library that is missing says so."""
    path = (packages.site, *map(packages.of, BASES))
    (packages.site / "untyped_knn.py").rename(packages.site / "other.py")
    stores = json.loads(run(packages.site, "fotmem", "stores", "--json", path=path))["stores"]
    (packages.site / "other.py").rename(packages.site / "untyped_knn.py")
    reasons = {store["name"]: store["reason"] for store in stores}
    missing = "needs untyped_knn, not installed: pip install untyped-knn"
    assert {base: reasons[f"my-{base}"] for base in BASES} == dict.fromkeys(BASES, "") | {
        "graph": missing
    }


@each_base
def test_it_uses_public_names_only(packages: Packages, base: Base) -> None:
    used = {
        name
        for source in packages.of(base).rglob("*.py")
        for name in names_used(source.read_text("utf-8"))
    }
    assert {"plugin.StoreSpec", "testing.StoreContract"} <= used
    assert used <= PUBLIC
    sources = [source.read_text("utf-8") for source in packages.of(base).rglob("*.py")]
    assert not foreign_private_names(sources)
