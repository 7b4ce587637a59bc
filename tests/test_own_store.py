"""The page "Your own store in ten minutes": its commands and changes lead to the example."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

from fotmem.scaffold import write_package
from tests.commands import process
from tests.pages import ROOT, Block, blocks
from tests.test_scaffold import install, written

PAGE = ROOT / "docs" / "own-store.md"
EXAMPLE = ROOT / "examples" / "fotmem-usearch"


def shown(language: str) -> Iterator[Block]:
    return (block for block in blocks(PAGE) if block.language == language)


def change(folder: Path, block: Block) -> None:
    """Apply a part of a diff, which must fit in one place."""
    lines = block.code.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] in " -")
    after = "".join(line[1:] for line in lines if line[0] in " +")
    file = folder / block.title
    text = file.read_text("utf-8")
    assert text.count(before) == 1, before
    file.write_text(text.replace(before, after), "utf-8")


def rounded(report: str) -> str:
    """Leave figures out, which differ in their last digits from machine to machine, and times."""
    return re.sub(r"\d+\.\d\d s|\d\.\d{4}", "#", report)


def commands() -> list[str]:
    code = "".join(block.code for block in shown("console"))
    return [line.removeprefix("$ ") for line in code.splitlines()]


def test_the_mistake_is_told_as_the_page_shows_it(tmp_path: Path) -> None:
    write_package("usearch", tmp_path)
    install(tmp_path, tmp_path)
    [line] = [line for line in commands() if "--test" in line]
    right = process(*shlex.split(line)[1:], path=tmp_path)
    assert (right.code, "2 held, 0 failed" in right.out) == (0, True), right.out + right.err
    for block in shown("diff"):
        change(tmp_path, block)
    wrong = process(*shlex.split(line)[1:], path=tmp_path)
    assert wrong.code == 1
    [report] = [block.code for block in shown("text") if "FAILED" in block.code]
    assert rounded(wrong.out) == rounded(report)


def test_the_page_shows_the_example() -> None:
    files = {block.title: block.code for block in shown("python")}
    assert set(files) == {"fotmem_usearch/store.py", "fotmem_usearch/plugin.py"}
    for title, code in files.items():
        assert code == (EXAMPLE / title).read_text("utf-8"), title
    [project] = [block.code for block in shown("toml")]
    assert (EXAMPLE / "pyproject.toml").read_text("utf-8").startswith(project)


def test_all_else_of_the_example_is_as_it_was_written(tmp_path: Path) -> None:
    write_package("usearch", tmp_path)
    listed = subprocess.run(
        ["git", "ls-files"], cwd=EXAMPLE, capture_output=True, text=True, check=False
    )
    if listed.returncode == 0 and listed.stdout:
        assert sorted(listed.stdout.splitlines()) == written(tmp_path)
    changed = {"README.md", "fotmem_usearch/store.py", "fotmem_usearch/plugin.py"}
    for file in set(written(tmp_path)) - changed - {"pyproject.toml"}:
        assert (EXAMPLE / file).read_bytes() == (tmp_path / file).read_bytes(), file
    [project] = [block.code for block in shown("toml")]
    settings = (EXAMPLE / "pyproject.toml").read_text("utf-8").removeprefix(project)
    assert (tmp_path / "pyproject.toml").read_text("utf-8").endswith(settings)


def test_the_tree_shows_what_is_written(tmp_path: Path) -> None:
    write_package("usearch", tmp_path)
    [tree] = [block.code for block in shown("text") if "├──" in block.code]
    for file in written(tmp_path):
        assert Path(file).name in tree, file
