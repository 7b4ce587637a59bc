"""Generates the parts of `docs/cli.md` that describe commands, from the commands themselves.

Run by ``python -m recipes.command_line``. A part stands between two lines with the name of its
command: its help, its example, and a table of its arguments and options. The rest of the page is
written by hand.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import typer

from fotmem.cli.commands import app
from recipes.reports import fill, table
from recipes.stopping import run_recipe

PAGE = Path("docs/cli.md")
EXAMPLE = "Example: "
KINDS = {str: "TEXT", int: "INTEGER", float: "NUMBER"}


def main(page: Path = PAGE) -> None:
    """Generate the parts anew; add a section for a command that has none."""
    for name, command in commands():
        text = page.read_text("utf-8")
        if marker(name) not in text:
            section = f"\n## `{name}`\n\n{marker(name)}{marker(name)}"
            page.write_text(text + section, encoding="utf-8")
        fill(page, marker(name), described(command))


def marker(name: str) -> str:
    """Return the line before and after the part of a command."""
    return f"<!-- {name}, by python -m recipes.command_line -->\n"


def commands() -> Iterator[tuple[str, Any]]:
    """Yield every command with its full name, in the order of ``fotmem --help``."""
    yield from _commands("fotmem", typer.main.get_command(app))


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield name, command
        return
    for each, inner in command.commands.items():
        yield from _commands(f"{name} {each}", inner)


def described(command: Any) -> str:
    """Write the help of a command, its examples, and its arguments and options."""
    text, *examples = command.help.split(EXAMPLE)
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    body = [_row(each) for each in (*arguments, *options)]
    head = ["argument or option", "default", "meaning"]
    lines = (f"$ {' '.join(each.split())}\n" for each in examples)
    console = f"```console\n{''.join(lines)}```\n"
    return "\n".join([f"{_markdown(text.strip())}\n", console, table(head, body)])


def _name(param: Any) -> str:
    """Return an argument's or an option's name."""
    if param.param_type_name == "argument":
        return str(param.metavar or param.name.upper())
    return str(param.opts[0])


def _kind(param: Any) -> str:
    """Return the kind of a value: its metavar, its choices, or its type."""
    kind = param.type_descriptor.annotation
    return param.metavar or " or ".join(get_args(kind)) or KINDS[kind]


def _row(param: Any) -> list[str]:
    default = "required" if param.required else _default(param)
    name = f"`{_name(param)}`" if _is_bare(param) else f"`{_name(param)}` {_kind(param)}"
    return [name, default, _markdown(" ".join((param.help or "").split())) + _bounds(param)]


def _is_bare(param: Any) -> bool:
    """Return whether no value follows the name: an argument, or a flag."""
    return param.param_type_name == "argument" or bool(param.is_flag)


def _default(param: Any) -> str:
    return "" if _is_bare(param) or param.default in (None, [], ()) else f"`{param.default}`"


def _bounds(param: Any) -> str:
    """Write the range of a number, unless every sensible number lies in it."""
    least, most = param.min, param.max
    if least is not None and most is not None and param.name != "seed":
        return f" From {least} to {most}."
    return f" At least {least}." if least else ""


def _markdown(text: str) -> str:
    """Turn rich markup into Markdown, and lines of a paragraph into one."""
    paragraphs = (" ".join(each.split()) for each in text.split("\n\n"))
    text = "\n\n".join(paragraphs).replace("|", "\\|")
    return re.sub(r"\[bold\](.*?)\[/bold\]", r"`\1`", text)


if __name__ == "__main__":
    run_recipe(main)
