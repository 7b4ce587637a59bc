"""The page on the command line, of which the commands themselves write the greater part."""

import re
import shutil
from pathlib import Path

from recipes import command_line

STALE = "docs/cli.md is stale: run python -m recipes.command_line"


def test_the_page_is_what_the_commands_say(tmp_path: Path) -> None:
    page = tmp_path / "cli.md"
    shutil.copy(command_line.PAGE, page)
    command_line.main(page)
    assert page.read_text("utf-8") == command_line.PAGE.read_text("utf-8"), STALE


def test_the_page_has_no_command_that_is_gone() -> None:
    text = command_line.PAGE.read_text("utf-8")
    shown = re.findall(r"^## `(fotmem [^`]+)`$", text, re.MULTILINE)
    assert sorted(shown) == sorted(name for name, _ in command_line.commands())
    assert text.count(", by python -m recipes.command_line -->") == 2 * len(shown)


def test_a_new_command_gets_a_section(tmp_path: Path) -> None:
    page = tmp_path / "cli.md"
    page.write_text("# Command line\n")
    command_line.main(page)
    assert "\n## `fotmem eval curve`\n" in page.read_text("utf-8")
    assert "| `--png` FILE |  | " in page.read_text("utf-8")
