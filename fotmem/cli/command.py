"""What every command refuses: an option that is given twice, and numbers that are none."""

from typing import Any

import typer
from typer.core import TyperCommand

LARGEST = 2**32
"""Of all numbers; more than seeds there are would make no sense."""


class Command(TyperCommand):
    """A command whose options mean what they say."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the options; check what typer does not.

        Raises
        ------
        typer.BadParameter
            A file or a store is given twice, of which typer would forget one; a number is not
            finite, or larger than any that makes sense.
        """
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for param in given:
            # Of anything else the last holds, as in other commands.
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
