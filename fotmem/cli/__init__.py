"""The command line; slow imports are delayed, see `main`."""

import os
import sys


def main() -> None:
    """Run the command line; errors are one line on stderr, never a traceback.

    Slow imports begin after Ctrl-C has been set up to end the process without a traceback.
    """
    try:
        from fotmem.cli.stopping import Stopping
    except KeyboardInterrupt:
        os.write(2, b"fotmem: stopped\n")
        os._exit(130)
    stopping = Stopping()
    from fotmem.cli.commands import run

    sys.exit(stopping.run(run))
