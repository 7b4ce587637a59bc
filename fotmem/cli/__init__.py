"""The command line: ``fotmem stores``, ``demo``, ``ask`` and ``eval``."""

import os
import sys

import click
import typer

from fotmem.cli import ask, demo, evaluate, stores
from fotmem.errors import FotmemError

app = typer.Typer(
    help="A memory for LLaMA: interchangeable kNN stores behind one interface.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("stores")(stores.stores)
app.command("demo")(demo.demo)
app.command("ask")(ask.ask)
app.add_typer(evaluate.app, name="eval")


def main() -> None:
    """Run the command line; errors are one line on stderr, never a traceback."""
    try:
        sys.exit(app(standalone_mode=False))
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except FotmemError as error:
        _fail(str(error), 1)
    except (KeyboardInterrupt, click.Abort):
        _fail("stopped", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _fail(message: str, code: int) -> None:
    print(f"fotmem: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
