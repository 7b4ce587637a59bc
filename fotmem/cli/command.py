"""Refuses options that are given twice, and numbers out of range, in every command."""

import re
import shlex
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import typer
from typer.core import TyperCommand

from fotmem.errors import shown

LARGEST = 2**32
"""Largest number of an option: that of the seeds."""


class Command(TyperCommand):
    """A command with stricter options than typer's."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the options; check more than typer does, and say which number was expected.

        Raises
        ------
        typer.BadParameter
            A file or a store is given twice, where typer would ignore the first; a text stands
            without ``--text``; a number is none, not finite, or out of range.
        """
        texts, extra, given = self.make_parser(ctx).parse_args(args=list(args))
        _refuse_repeated(given, ctx)
        if extra and any(param.name == "text" for param in self.params):
            name = shlex.quote(extra[0])
            raise _bad(f"got {name} besides the arguments, did you mean --text {name}?", None, ctx)
        try:
            rest: list[str] = super().parse_args(ctx, args)
        except typer.BadParameter as error:
            wrong: Any = error.param
            expected = "" if wrong is None else expected_number(self.callback, wrong.name)
            if not expected or error.message.startswith("expected") or wrong.name not in texts:
                raise
            raise _bad(f"{expected}, got {_plain(texts[wrong.name])}", wrong, ctx) from error
        for param in given:
            value = ctx.params.get(param.name)
            for number in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(number, (int, float)) and not abs(number) <= LARGEST:  # or NaN
                    raise _bad(f"expected at most {LARGEST:,}, got {number:,}", param, ctx)
        return rest


def _refuse_repeated(given: list[Any], ctx: Any) -> None:
    """Refuse a file or a store that is given twice; of other options the last one counts."""
    for param in given:
        names = param.metavar in ("FILE", "DIR") or param.name in ("store", "stores")
        if names and not param.multiple and given.count(param) > 1:
            raise _bad("expected it once, got it more than once", param, ctx)


def expected_number(function: Callable[..., Any] | None, name: str) -> str:
    """Say which number a parameter of a command takes; nothing if it takes no number."""
    assert function is not None  # groups have none
    kind, *about = get_args(get_type_hints(function, include_extras=True)[name])
    kinds = {kind, *get_args(kind)} & {int, float}
    if not kinds:
        return ""
    least, most = about[0].min, about[0].max
    text = f"expected {'an integer' if int in kinds else 'a number'}"
    if most is not None:
        return f"{text} from {least:,} to {most:,}"
    return text if least is None else f"{text} of at least {least:,}"


def _plain(text: object) -> str:
    """Show what was given; a number without quotes."""
    return re.sub(r"^'(-?[\d.]+)'$", r"\1", shown(text))


def _bad(message: str, param: Any, ctx: Any) -> typer.BadParameter:
    return typer.BadParameter(message, ctx=ctx, param=param)
