"""The documentation is run.

Each page's Python blocks run in order, in one namespace:

- ```` ```python ```` is executed, ```` ```pycon ```` is a doctest: its output is compared;
- with ``title="package/module.py"`` it is a file of a package, which later blocks may import;
- with ``title="test_x.py"`` it is a file of tests, which pytest runs at the end of the page;
- a ``pyproject.toml`` block installs the entry points that it declares;
- ``$ fotmem plugin new`` in a ``console`` block writes that package, and installs it;
- a ``diff`` block changes a file;
- ``<!-- not executed: reason -->`` on the line before a block leaves it out.
"""

from __future__ import annotations

import logging
import re
import shlex
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main

import fotmem
from fotmem import errors
from fotmem.adapter import Adapter, RotaryAdapter
from fotmem.cli.commands import app
from fotmem.measure.bench.report import BenchReport
from fotmem.measure.evaluate.passkey import PasskeyRow
from fotmem.plugin import AdapterSpec, StoreCapabilities, StoreSpec
from fotmem.plugin.registry import registry
from fotmem.scaffold import write_package
from fotmem.stores import Graph, GraphStore, IndexedOptions, IndexedStore, MemoryStore, RowsStore
from fotmem.testing import AdapterContract
from fotmem_decoders.families import FAMILIES
from tests import tiny
from tests.clock import no_time_passes  # noqa: F401 - a fixture
from tests.page_runner import Runner
from tests.pages import DOCS, NAMES, PAGES, ROOT, blocks, prose
from tests.public_names import foreign_private_names, private_names


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    """Plugins that a page shows are installed for this page only, and so is what it logs."""
    level = logging.getLogger("fotmem").level
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    with torch.random.fork_rng():
        yield Runner(tmp_path)
    shown = {folder.name for folder in tmp_path.iterdir()}
    for module in set(sys.modules) - before:
        if module.split(".")[0] in shown:
            del sys.modules[module]
    registry.cache_clear()
    logging.getLogger("fotmem").setLevel(level)


@pytest.mark.parametrize(
    "fast", [True, pytest.param(False, marks=pytest.mark.thorough)], ids=["fast", "all"]
)
@pytest.mark.parametrize("page", PAGES, ids=NAMES)
@pytest.mark.skipif(
    "cache" not in tiny.cached(None),
    reason="the pages speak transformers 5.24, which renamed past_key_values to cache",
)
@pytest.mark.usefixtures("no_time_passes")
def test_every_block_runs(page: Path, fast: bool, runner: Runner) -> None:
    if page.stem == "lm-eval":
        pytest.importorskip("lm_eval")
    for block in blocks(page):
        if not block.left_out:
            runner.run(block)
    runner.test(fast=fast)
    assert not registry().problems


NEEDED = re.compile(r'from_pretrained|load_(longllama|model|recipe)|open_group\("memory"')


def test_python_is_left_out_only_where_it_needs_a_download_a_model_or_a_memory() -> None:
    for page in PAGES:
        for block in blocks(page):
            if block.language == "python" and block.left_out:
                assert NEEDED.search(block.code), block
                compile(block.code, str(page), "exec")


@pytest.mark.thorough
def test_the_readme_begins_with_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its first lines run, on a tenth of their text, and print what it shows."""
    install, first, shown = list(blocks(ROOT / "README.md"))[:3]
    assert install.code.startswith("pip install")
    assert [install.language, first.language, shown.language] == ["console", "python", "text"]
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    try:
        exec(first.code.replace("0_000", "_000"), namespace)
    except fotmem.InputError as error:
        pytest.skip(str(error))  # names the command that installs it
    assert shown.code in capsys.readouterr().out
    [length] = re.findall(r"\[:([\d_]+)\]\n", first.code)
    text = "\n".join(namespace["topics"].values())[: int(length)]
    tokens = namespace["tokenizer"](text).input_ids
    assert len(tokens) > namespace["model"].config.max_position_embeddings


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(\s*([^)\s]+)\s*\)", prose(page)):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.is_file(), f"{page.name}: {target}"
        assert page not in DOCS or ROOT / "docs" in found.parents, f"{target} is not in the site"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", prose(found), flags=re.MULTILINE)
            assert anchor in map(_slug, headings), f"{page.name}: {target}"


def _slug(heading: str) -> str:
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def test_every_store_has_a_page_with_its_options() -> None:
    ours = {name for name, spec in fotmem.available_stores().items()}
    assert {page.stem for page in (ROOT / "docs/stores").glob("*.md")} == {"index", *ours}
    for name, spec in fotmem.available_stores().items():
        text = (ROOT / f"docs/stores/{name}.md").read_text("utf-8")
        shown = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", text, re.MULTILINE)
        assert {option for option, _ in shown} == set(spec.options.model_fields), name


def missing(names: Iterable[str], page: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text("utf-8")
    return [name for name in names if not re.search(rf"`(self\.)?{name}\b", text)]


def public_methods(kind: type) -> set[str]:
    return {name for name, value in vars(kind).items() if name[0] != "_" and callable(value)}


def test_the_pages_on_stores_have_the_whole_interface() -> None:
    inner = {
        name for name in public_methods(MemoryStore) if name.endswith(("_rows", "_rows_biased"))
    }
    assert len(inner) == 10
    others = {
        "live_blocks",
        "new_empty",
        "tune_options",
        "resume_at",
        "share_read",
        "disk_bytes",
        "tail_estimate",
    }
    assert not missing([*inner, *others, "checked_queries"], "store-interface.md")
    bases = (public_methods(IndexedStore) | public_methods(GraphStore)) - public_methods(RowsStore)
    names = {*bases, *public_methods(Graph), *IndexedOptions.model_fields, "search_options"}
    assert not missing(names - inner - others, "base-classes.md")


def test_pages_show_no_private_name_of_fotmem() -> None:
    names = private_names()
    assert "_search_live" in names
    for page in PAGES:
        assert not set(re.findall(r"\b_[a-z]\w*", prose(page))) & names, page
        code = [each.code for each in blocks(page) if each.language == "python"]
        assert not foreign_private_names(code), page


def test_the_page_on_plugins_has_every_field() -> None:
    names = [field.name for kind in (StoreSpec, StoreCapabilities) for field in fields(kind)]
    assert not missing(names, "plugins.md")


def test_the_pages_on_stores_show_what_is_written(tmp_path: Path) -> None:
    write_package("blocks", tmp_path, base="store")
    for page in ("plugins.md", "store-interface.md"):
        for block in blocks(ROOT / "docs" / page):
            if block.title.startswith("fotmem_blocks/"):
                assert block.code == (tmp_path / block.title).read_text("utf-8"), block.title


def test_the_page_on_adapters_has_the_whole_interface() -> None:
    names = [*Adapter.__abstractmethods__, "layers", "model", "adapter"]
    names += [name for name in vars(RotaryAdapter) if not name.startswith("_")]
    names += [field.name for field in fields(AdapterSpec)]
    names += [name for name in dir(AdapterContract) if name.startswith("test_")]
    assert not missing(names, "adapters.md")


def test_the_page_on_adapters_has_every_family() -> None:
    text = (ROOT / "docs/adapters.md").read_text("utf-8")
    table = text.partition("| family |")[2].partition("\n\n")[0]
    cells = [row.split("|")[1] for row in table.splitlines()[2:]]
    assert sorted(re.findall("`(.+?)`", "".join(cells))) == sorted(FAMILIES)
    assert f"[{len(FAMILIES)} families]" in text


def test_the_page_on_adapters_is_the_example() -> None:
    shown = {block.title: block.code for block in blocks(ROOT / "docs/adapters.md") if block.title}
    assert set(shown) == {
        "fotmem_modernbert/adapter.py",
        "fotmem_modernbert/plugin.py",
        "pyproject.toml",
        "tests/test_modernbert.py",
    }
    for title, code in shown.items():
        assert code == (ROOT / "examples/fotmem-modernbert" / title).read_text("utf-8"), title


def test_the_page_on_adapters_shows_every_file_of_the_example() -> None:
    [tree] = [
        block.code
        for block in blocks(ROOT / "docs/adapters.md")
        if block.code.startswith("fotmem-")
    ]
    folder = ROOT / "examples/fotmem-modernbert"
    files = [
        file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts
    ]
    shown = re.findall(r"[├└]── ([\w./-]+[^/\s])(?=\s)", tree)
    assert sorted(Path(name).name for name in shown) == sorted(file.name for file in files)


def test_the_page_on_errors_has_every_error() -> None:
    page = ROOT / "docs/errors.md"
    text = page.read_text("utf-8")
    tree = textwrap.dedent((errors.__doc__ or "").partition("::\n\n")[2])
    assert tree.strip() in text
    kinds = set(errors.__all__) - {"FotmemError"}
    assert set(re.findall(r"^## (\w+Error)$", text, re.MULTILINE)) == kinds


def test_the_page_on_the_command_line_has_every_command_and_option() -> None:
    text = (ROOT / "docs/cli.md").read_text("utf-8")
    for words, command in _commands(typer.main.get_command(app), "fotmem"):
        section = text.partition(f"\n## `{words}`\n")[2].partition("\n## ")[0]
        assert section, words
        for option in _options(command) - {"--help"}:
            assert f"`{option}`" in section, f"{words} {option}"
    for field in fields(PasskeyRow):
        assert f'"{field.name}": ' in text


def test_the_page_on_the_command_line_has_a_whole_report_of_a_benchmark() -> None:
    """With every field of each row, and none that a report has not."""
    [shown] = [
        block.code
        for block in blocks(ROOT / "docs/cli.md")
        if block.language == "json" and '"fotmem_bench"' in block.code
    ]
    report = BenchReport.model_validate_json(shown)
    assert report.model_fields_set == set(BenchReport.model_fields)
    for row in (report.rows[0], report.growth[0], report.failures[0]):
        assert row.model_fields_set == set(type(row).model_fields)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_and_targets_that_are_mentioned_exist(page: Path) -> None:
    shown = [
        line.removeprefix("$ ")
        for block in blocks(page)
        if block.language == "console"
        for line in block.code.splitlines()
    ]
    shown += re.findall(r"`((?:fotmem|make) [^`]+)`", prose(page))
    targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for line in shown:
        program, *words = shlex.split(line, comments=True) or [""]
        if program == "make":
            assert next(word for word in words if "=" not in word) in targets, line
        elif program == "fotmem":
            _check_command(line, words)


def _check_command(line: str, words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        by_default = "run" if "run" in command.commands else ""  # fotmem bench DIR
        name = words.pop(0) if words[0] in command.commands else by_default
        assert name, line
        command = command.commands[name]
    for word in words:
        assert not word.startswith("--") or word in _options(command), f"{word} in {line}"


def _commands(command: Any, words: str) -> Iterator[tuple[str, Any]]:
    """All commands that do something, with the words that call them."""
    if not hasattr(command, "commands"):
        yield words, command
        return
    for name, inner in command.commands.items():
        yield from _commands(inner, f"{words} {name}")


def _options(command: Any) -> set[str]:
    found = {option for parameter in command.params for option in parameter.opts}
    return {option for option in found if option.startswith("--")} | {"--help"}
