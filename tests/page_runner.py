"""Runs the blocks of a page, as `tests.test_docs` describes them."""

from __future__ import annotations

import doctest
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fotmem.cli.commands import app
from fotmem.plugin.registry import registry
from tests import plugins
from tests.pages import Block, change

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
FAST = "equal_to_brute_force or search_among_ids or start_at or reopening"
"""Tests of the contract that see what is missing in a store of a few lines."""


class Runner:
    """Runs the blocks of one page."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.namespace: dict[str, Any] = {"__name__": "__main__"}

    def run(self, block: Block) -> None:
        if block.title == "pyproject.toml":
            self.install(tomllib.loads(block.code)["project"])
        elif block.language == "pycon":
            self.compare(block)
        elif block.language == "python" and block.title:
            self.write(block)
        elif block.language == "diff":
            change(self.folder, block)
        elif block.language == "console" and block.code.startswith("$ fotmem plugin new "):
            self.generate(shlex.split(block.code.splitlines()[0])[2:])
        elif block.language == "python":
            # Line numbers and file of the page, so that a traceback shows its lines.
            code = compile("\n" * (block.line - 1) + block.code, str(block.page), "exec")
            exec(code, self.namespace)

    def write(self, block: Block) -> None:
        file = self.folder / block.title
        file.parent.mkdir(exist_ok=True)
        if file.parent != self.folder and file.parent.name != "tests":
            (file.parent / "__init__.py").touch()
        file.write_text(block.code, encoding="utf-8")

    def generate(self, words: list[str]) -> None:
        written = CliRunner().invoke(app, [*words, "--path", str(self.folder / "written")])
        assert written.exit_code == 0, written.output
        shutil.copytree(self.folder / "written", self.folder, dirs_exist_ok=True)
        shutil.rmtree(self.folder / "written")
        self.install(tomllib.loads((self.folder / "pyproject.toml").read_text("utf-8"))["project"])

    def test(self, *, fast: bool) -> None:
        """Run the files of tests, by a pytest with its own settings.

        Of a store that only attends in its own way, run the tests that concern it; if `fast`, run
        some tests of other stores.
        """
        files = sorted(map(str, self.folder.glob("test_*.py")))
        if not files:
            return
        configuration = self.folder / "pytest.ini"
        configuration.write_text("[pytest]\n", encoding="utf-8")
        options = ["-c", str(configuration), "--rootdir", str(self.folder), "-q", "--tb=short"]
        options += ["-p", "no:cacheprovider", f"--basetemp={self.folder / 'files'}", "-W", "error"]
        for file in files:
            some = FAST if fast else ""
            if "test_dense" in file:
                some = "dense_attention or log_sum_exp" if fast else "attend or attention or forget"
            assert pytest.main([*options, "-k", some, file]) == 0

    def install(self, project: dict[str, Any]) -> None:
        plugins.write_metadata(self.folder, project)
        registry.cache_clear()

    def compare(self, block: Block) -> None:
        name = f"{block.page.name}, line {block.line}"
        test = doctest.DocTestParser().get_doctest(
            block.code, {}, name, str(block.page), block.line - 1
        )
        test.globs = self.namespace
        report: list[str] = []
        runner = doctest.DocTestRunner(optionflags=OPTIONS)
        runner.run(test, out=report.append, clear_globs=False)
        assert not report, "".join(report)
