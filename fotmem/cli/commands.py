"""The commands: ``fotmem stores``, ``models``, ``demo``, ``ask``, ``train``, ``eval`` ..."""

import io
import os
import sys
from contextlib import suppress
from typing import Annotated, Any

import typer

from fotmem import __version__
from fotmem.cli import (
    ask,
    bench,
    capture,
    demo,
    evaluate,
    layers,
    memory,
    models,
    plugin,
    read,
    select,
    stores,
    train,
    train_dictionary,
)
from fotmem.cli.command import Command
from fotmem.cli.printable import printable
from fotmem.cli.stopping import STOPPED
from fotmem.errors import FotmemError

# Typer has brought a click of its own since 0.26: found through typer, it is always the right one.
_ClickException: type[Any] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    help="Long-term memory for LLaMA models, in interchangeable kNN stores.\n\n"
    "Example: fotmem demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"fotmem {__version__}")
        raise typer.Exit


@app.callback()
def before_the_command(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Take the options before the command."""


app.command("stores", cls=Command)(stores.stores)
app.command("models", cls=Command)(models.models)
app.command("demo", cls=Command)(demo.demo)
app.command("read", cls=Command)(read.read)
app.command("ask", cls=Command)(ask.ask)
app.command("layers", cls=Command)(layers.layers)
app.command("capture", cls=Command)(capture.capture)
app.command("capture-arrays", cls=Command)(capture.capture_arrays)
app.command("capture-random", cls=Command)(capture.capture_random)
app.command("select", cls=Command)(select.select)
app.command("train", cls=Command)(train.train)
app.command("train-dictionary", cls=Command)(train_dictionary.train_dictionary)
app.add_typer(bench.app, name="bench")
app.add_typer(evaluate.app, name="eval")
app.add_typer(memory.app, name="memory")
app.add_typer(plugin.app, name="plugin")


def run() -> int:
    """Run the command line and return the exit code; errors are one line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # an answer may have characters that a terminal cannot show
            stream.reconfigure(errors="replace")
    try:
        code = app(prog_name="fotmem", standalone_mode=False)
        sys.stdout.flush()
    except _ClickException as error:
        return _failed(_with_cure(error), error.exit_code)
    except FotmemError as error:
        return _failed(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        return STOPPED
    except BrokenPipeError:  # as in `fotmem stores | head -1`
        _drop_output()
        return 1
    except OSError as error:  # the system's: no file can be opened any more, stdout is full
        _drop_output()
        place = "" if error.filename is None else f": {error.filename}"
        return _failed(f"{error.strerror or error}{place}", 1)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate memory" not in str(error):  # torch's
            raise
        return _failed(f"there is too little memory ({error}); use smaller values", 1)
    return int(code or 0)


def _drop_output() -> None:
    """Drop unwritten output: Python would try to write it again."""
    with suppress(OSError):  # no file of the system's
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _with_cure(error: Any) -> str:
    message: str = error.format_message().replace("Value error, ", "")  # pydantic's prefix
    context = getattr(error, "ctx", None)
    if not message or context is None:
        return message
    return f"{message.removesuffix('.')}; try '{context.command_path} --help'"


def _failed(message: str, code: int) -> int:
    if message:  # where there is none, typer has printed a help page
        print(f"fotmem: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code
