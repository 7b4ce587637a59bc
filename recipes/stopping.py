"""Ends a recipe with one line: after an error that can be expected, Ctrl-C or another signal."""

import shlex
import subprocess
import sys
from collections.abc import Callable
from typing import NoReturn

import typer

from fotmem.cli.stopping import Stopping
from fotmem.errors import FotmemError


def run_recipe(main: Callable[[], object]) -> NoReturn:
    """Run a recipe, and end the process.

    A signal raises an exception, so that `subprocess.run` does not leave its command running.
    """

    def command() -> int:
        try:
            main()
        except (FotmemError, typer.BadParameter) as error:
            sys.exit(str(error))
        except subprocess.CalledProcessError as error:  # the command has said why
            sys.exit(f"this failed: {shlex.join(error.cmd)}")
        return 0

    sys.exit(Stopping().run(command))
