"""The site of the documentation: its navigation, its API reference, and that it builds."""

import importlib
import inspect
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

from tests.public_names import PUBLIC_MODULES

ROOT = Path(__file__).parents[1]
NAVIGATION = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[2]
REFERENCE = {
    "fotmem",
    "fotmem.crossbatch",
    "fotmem.measure.capture",
    "fotmem.measure.evaluate.ruler",
} | {f"fotmem.{module}" for module in PUBLIC_MODULES}
"""Modules from which other people import."""
RETURNED = {
    "fotmem.memory.retrieval.RereadPrompt",
    "fotmem.memory.retrieval.RetrievedPassage",
    "fotmem.memory.stats.MemoryStats",
    "fotmem.measure.select.choice.Selection",
    "fotmem.measure.select.choice.Candidate",
    "fotmem.measure.select.limits.Prediction",
}
"""Classes that nobody imports, but gets from functions."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as ``make docs`` does."""
    for package in ("material", "mkdocstrings_handlers"):
        if find_spec(package) is None:
            pytest.skip("needs mkdocs-material and mkdocstrings: pip install 'fotmem[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(
        command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


def documented() -> dict[str, Path]:
    """Give the page of each module of the reference."""
    return {
        name: page
        for page in (ROOT / "docs/api").glob("*.md")
        for name in re.findall(r"^::: ([\w.]+)$", page.read_text("utf-8"), re.MULTILINE)
    }


def public_names(module: ModuleType) -> set[str]:
    """Those of ``__all__`` but modules, which have pages of their own."""
    names = set(module.__all__) - {"__version__"}
    return {name for name in names if not inspect.ismodule(getattr(module, name))}


def test_the_navigation_has_five_groups_and_every_page_once() -> None:
    groups = re.findall(r"^  - (.+):$", NAVIGATION, re.MULTILINE)
    assert groups == ["Start", "Use", "Choose and measure", "Extend", "Understand"]
    pages = sorted(str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md"))
    assert sorted(re.findall(r"(\S+\.md)$", NAVIGATION, re.MULTILINE)) == pages


def test_the_overview_leads_to_every_page() -> None:
    overview = (ROOT / "docs/index.md").read_text("utf-8")
    pages = set(re.findall(r"(\S+\.md)$", NAVIGATION, re.MULTILINE))
    aside = {page for page in pages if re.match(r"(stores|api)/", page)} | {"index.md"}
    assert not [page for page in pages - aside if f"({page}" not in overview]
    assert "(stores/index.md)" in overview
    assert "(api/fotmem.md)" in overview


def test_the_reference_has_every_module() -> None:
    assert set(documented()) == REFERENCE | RETURNED


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_the_reference_has_every_public_name(name: str, site: Path) -> None:
    page = documented()[name].relative_to(ROOT / "docs").with_suffix(".html")
    shown = set(re.findall(r'<h\d id="([^"]+)"', (site / page).read_text("utf-8")))
    names = public_names(importlib.import_module(name))
    assert names
    assert not {f"{name}.{public}" for public in names} - shown


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_every_class_and_function_has_a_docstring(name: str) -> None:
    module = importlib.import_module(name)
    values = {public: getattr(module, public) for public in public_names(module)}
    ours = {
        public: value
        for public, value in values.items()
        if inspect.isclass(value) or inspect.isfunction(value)
    }
    assert not [public for public, value in ours.items() if not (value.__doc__ or "").strip()]


def test_the_site_needs_no_network(site: Path) -> None:
    """Nothing is loaded from elsewhere: not even search, which works from ``file://``."""
    loaded = re.compile(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"((?:https?:)?//[^\"]+)\"")
    found = {file.name: loaded.findall(file.read_text("utf-8")) for file in site.rglob("*.html")}
    assert len(found) > 30
    assert not {name: urls for name, urls in found.items() if urls}
