"""What is not installed is named, all at once, wherever it is needed."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fotmem
from fotmem.documents import load_documents
from fotmem.errors import MissingPackageError
from fotmem.measure.bench.compare import compare
from fotmem.measure.bench.figures import interval
from fotmem.measure.bench.page import write_page
from fotmem.measure.bench.plot import draw
from fotmem.measure.bench.run import Bench, Plan
from fotmem.measure.capture import Capture, capture_hdf5, capture_random
from fotmem.measure.evaluate.curves import read_curves
from fotmem.measure.machine import resident
from fotmem.training.dictionary import train_dictionary
from tests import tiny
from tests.commands import refusal

OPTIONAL = (
    *(
        "accelerate",
        "bm25s",
        "datasets",
        "gguf",
        "h5py",
        "matplotlib",
        "peft",
        "plotly",
        "psutil",
        "scipy",
    ),
    *("faiss", "hnswlib", "justhtml", "numba", "obstore", "pypdf"),
)
NOTHING: Any = None


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be installed that only an extra brings."""
    for package in OPTIONAL:
        monkeypatch.setitem(sys.modules, package, None)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Capture:
    folder = tmp_path_factory.mktemp("captures") / "capture"
    return capture_random(folder, tokens=4, queries=2, num_heads=1, head_dim=2)


COMMANDS = {
    "bench CAPTURE": "needs matplotlib, plotly, psutil and scipy, not installed: .*[bench]",
    "bench compare CAPTURE CAPTURE": "needs matplotlib, plotly, psutil and scipy",
    "eval curve report.json --png curve.png": "needs scipy and matplotlib",
    "eval distraction any": "needs scipy, not installed",
    "eval facts any --beside window,bm25": "needs bm25s, not installed: .*[bench]",
    "eval perplexity any": "needs scipy, not installed",
    "eval passkey any --stores exact": "needs scipy, not installed",
    "select any --tokens 1M": "needs psutil and scipy",
    "train any --data FOLDER --output out": "needs accelerate, matplotlib, peft and datasets",
    "train any --data text --output out --full": "needs accelerate and matplotlib, not",
    "train-dictionary --output out": "needs accelerate and matplotlib, not .*[train]",
    "capture-arrays --hdf5 file.hdf5 --out out": "needs h5py, not installed",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_name_all_that_is_missing(
    command: str, bare: None, capture: Capture, tmp_path: Path, capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("A captain.")
    given = command.replace("CAPTURE", str(capture.directory)).replace("FOLDER", str(tmp_path))
    line = refusal(capsys, 1, *given.split())
    reason = re.escape(COMMANDS[command]).replace(r"\.\*", ".*")
    assert re.search(f"is not available here: {reason}", line), line
    assert "pip install 'fotmem[" in line


FUNCTIONS: dict[str, tuple[Callable[[Capture, Path], Any], str]] = {
    "select": (lambda capture, _: fotmem.select(capture, tokens=8), "psutil and scipy"),
    "Bench": (
        lambda capture, folder: Bench(capture, [], [0], folder / "report.json", Plan()),
        "psutil and scipy",
    ),
    "compare": (lambda *_: compare(NOTHING, NOTHING), "scipy"),
    "interval": (lambda *_: interval(NOTHING), "scipy"),
    "curves": (lambda _, folder: list(read_curves(folder)), "scipy"),
    "draw": (lambda _, folder: draw(EMPTY, folder / "a.png"), "matplotlib"),
    "write_page": (lambda _, folder: write_page(EMPTY, folder / "a.html"), "plotly"),
    "capture_hdf5": (lambda _, folder: capture_hdf5(folder / "new", folder / "file"), "h5py"),
    "resident": (lambda *_: resident(), "psutil"),
    "train": (
        lambda _, folder: fotmem.train(NOTHING, NOTHING, [folder], folder / "new"),
        "accelerate, matplotlib, peft and datasets",
    ),
    "train_dictionary": (
        lambda _, folder: train_dictionary(folder / "new"),
        "accelerate and matplotlib",
    ),
    "load_documents": (lambda *_: list(load_documents("hub:a")), "datasets"),
    "load_documents HTML": (lambda *_: list(load_documents("a.html")), "justhtml"),
    "open_memory": (lambda *_: fotmem.open_memory("s3://a/b", tiny.llama()), "obstore"),
    "load_documents PDF": (lambda *_: list(load_documents("a.pdf")), "pypdf"),
}


class _Empty:
    rows = growth = failures = all_keys = ()


EMPTY: Any = _Empty()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_name_all_that_is_missing(
    name: str, bare: None, capture: Capture, tmp_path: Path
) -> None:
    function, packages = FUNCTIONS[name]
    with pytest.raises(MissingPackageError, match=f"needs {packages}, not installed: pip"):
        function(capture, tmp_path)
    assert isinstance(MissingPackageError("a", "b"), ImportError)
    assert list(tmp_path.iterdir()) == []


MODULES = """
import sys
for package in sys.argv[1:]:
    sys.modules[package] = None
import importlib, pkgutil
import fotmem
for module in pkgutil.walk_packages(fotmem.__path__, "fotmem."):
    others = ("fotmem.testing", "fotmem.scaffold.template", "fotmem.__main__")
    if not module.name.startswith(others):
        importlib.import_module(module.name)
for name in fotmem.__all__:
    getattr(fotmem, name)
"""


@pytest.mark.thorough
def test_every_module_can_be_imported_without_them() -> None:

    ended = subprocess.run(
        [sys.executable, "-c", MODULES, *OPTIONAL],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
