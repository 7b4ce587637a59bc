"""The packages in `examples/` keep their own tests, as plugins of a third party."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests import plugins
from tests.public_names import PUBLIC, names_used
from tests.test_import import PROJECT

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(file.parent for file in (ROOT / "examples").glob("*/pyproject.toml"))
examples = pytest.mark.parametrize("example", EXAMPLES, ids=lambda folder: folder.name)


def project(example: Path) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((example / "pyproject.toml").read_text("utf-8"))
    return dict(found["project"])


def requirements(names: list[str]) -> set[str]:
    return {Requirement(name).name for name in names} - {"fotmem"}


def installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def python(installed: Sequence[Path], folder: Path, *arguments: str) -> None:
    """Run Python where these examples are installed, and nothing else of `examples/`."""
    for example in installed:
        plugins.write_metadata(folder, project(example))
    paths = [str(folder), *map(str, installed), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=installed[0],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_there_is_an_example_of_an_adapter_and_of_a_store() -> None:
    assert {"fotmem-modernbert", "fotmem-usearch"} <= {example.name for example in EXAMPLES}


@pytest.mark.thorough
@examples
def test_its_own_tests_pass(example: Path, tmp_path: Path) -> None:
    missing = sorted(
        filter(lambda name: not installed(name), requirements(project(example)["dependencies"]))
    )
    if missing:
        pytest.skip(f"{example.name} needs {', '.join(missing)}: pip install {' '.join(missing)}")
    python([example], tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider")


@examples
def test_what_it_needs_is_installed_for_the_tests(example: Path) -> None:
    ours = PROJECT["project"]
    development = [*ours["dependencies"], *ours["optional-dependencies"]["dev"]]
    assert requirements(project(example)["dependencies"]) <= requirements(development)


def test_their_plugin_modules_are_light(tmp_path: Path) -> None:
    """All of them in one process."""
    modules = [
        name for each in EXAMPLES for name in project(each)["entry-points"]["fotmem"].values()
    ]
    code = (
        f"import sys, {', '.join(modules)}\n"
        "import fotmem\n"
        "fotmem.available_stores()\n"
        "assert not fotmem.plugin.registry.registry().problems\n"
        "assert not {'transformers', 'usearch'} & set(sys.modules)\n"
    )
    python(EXAMPLES, tmp_path, "-c", code)


@examples
def test_it_imports_only_public_names(example: Path) -> None:
    sources = sorted(example.rglob("*.py"))
    assert sources
    for source in sources:
        used = set(names_used(source.read_text("utf-8")))
        assert used - PUBLIC == set(), source
