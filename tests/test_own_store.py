"""The page "Your own store in ten minutes": its commands and changes lead to the example."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import call, process
from tests.pages import ROOT, Block, blocks, change
from tests.test_scaffold import install, search_path, written

PAGE = ROOT / "docs" / "own-store.md"
EXAMPLE = ROOT / "examples" / "fotmem-usearch"
STORE, OPTIONS = "fotmem_usearch/store.py", "fotmem_usearch/options.py"
PLUGIN = "fotmem_usearch/plugin.py"


def shown(language: str) -> Iterator[Block]:
    return (block for block in blocks(PAGE) if block.language == language)


def commands() -> list[str]:
    code = "".join(block.code for block in shown("console"))
    return [line.removeprefix("$ ") for line in code.splitlines()]


def rounded(report: str) -> str:
    """Leave figures out, which differ in their last digits from machine to machine, and times."""
    return re.sub(r"\d+\.\d\d s|\d\.\d{4}", "#", report)


@pytest.fixture
def package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """What the first command of the page writes."""
    folder = tmp_path / "fotmem-usearch"
    ended = call(capsys, *shlex.split(commands()[0])[1:], "--path", folder)
    assert (ended.code, ended.err) == (0, "")
    install(folder, tmp_path)
    return folder


@pytest.mark.thorough
def test_the_report_of_the_mistake_is_that_of_the_page(package: Path) -> None:
    [line] = [line for line in commands() if "--test" in line]
    path = Path(search_path(package, package.parent))
    right = process(*shlex.split(line)[1:], path=path)
    assert (right.code, ", 0 failed, " in right.out) == (0, True), right.out + right.err
    [mistake] = [block for block in shown("diff") if block.title == STORE]
    change(package, mistake)
    wrong = process(*shlex.split(line)[1:], path=path)
    assert wrong.code == 1
    [report] = [block.code for block in shown("text") if "FAILED" in block.code]
    assert rounded(wrong.out) == rounded(report)


def test_what_the_page_changes_leads_to_the_example(package: Path) -> None:
    """All but the README, which its author writes."""
    [store] = [block for block in shown("python") if block.title == STORE]
    (package / STORE).write_text(store.code, "utf-8")
    for block in shown("diff"):
        if block.title in (OPTIONS, PLUGIN):
            change(package, block)
    listed = subprocess.run(
        ["git", "ls-files"], cwd=EXAMPLE, capture_output=True, text=True, check=False
    )
    if listed.returncode == 0 and listed.stdout:
        assert sorted(listed.stdout.splitlines()) == written(package)
    for file in set(written(package)) - {"README.md"}:
        assert (EXAMPLE / file).read_bytes() == (package / file).read_bytes(), file


def test_the_page_changes_three_files() -> None:
    titles = {block.title for block in blocks(PAGE) if block.title}
    assert titles == {STORE, OPTIONS, PLUGIN}


def test_the_tree_shows_what_is_written(package: Path) -> None:
    [tree] = [block.code for block in shown("text") if "├──" in block.code]
    for file in written(package):
        assert Path(file).name in tree, file
