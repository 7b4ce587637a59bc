"""The command line; nothing is imported here that takes time, see `main`."""

import os
import sys


def main() -> None:
    """Run the command line; errors are one line on stderr, never a traceback.

    What takes time to import is imported once Ctrl-C ends the process without a traceback.
    """
    try:
        from fotmem.cli.stopping import Stopping
    except KeyboardInterrupt:
        os.write(2, b"fotmem: stopped\n")
        os._exit(130)
    stopping = Stopping()
    from fotmem.cli.commands import run

    sys.exit(stopping.run(run))
