"""Refuses options that are given twice, and numbers out of range, in every command."""

from typing import Any

import typer
from typer.core import TyperCommand

LARGEST = 2**32
"""Largest number of an option: that of the seeds."""


class Command(TyperCommand):
    """A command with stricter options than typer's."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the options; check more than typer does.

        Raises
        ------
        typer.BadParameter
            A file or a store is given twice, where typer would ignore the first; a number is not
            finite, or too large.
        """
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for param in given:
            # Of other options the last one counts, as in other programs.
            names = param.metavar in ("FILE", "DIR") or param.name in ("store", "stores")
            if names and not param.multiple and given.count(param) > 1:
                raise _bad("expected it once, got it more than once", param, ctx)
        rest: list[str] = super().parse_args(ctx, args)
        for param in given:
            value = ctx.params.get(param.name)
            for number in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(number, (int, float)) and not abs(number) <= LARGEST:  # or NaN
                    raise _bad(f"expected at most {LARGEST:,}, got {number:,}", param, ctx)
        return rest


def _bad(message: str, param: Any, ctx: Any) -> typer.BadParameter:
    return typer.BadParameter(message, ctx=ctx, param=param)
