"""Opens a directory from another process.

Its argument is a file with a pickled factory of stores and its arguments; it prints the result as
JSON.
"""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fotmem.errors import FotmemError

REFUSED, OPENED, NOT_MADE = "refused", "opened", "cannot be made there"


def open_elsewhere(make: Callable[..., Any], arguments: dict[str, Any], file: Path) -> str:
    """Make a store in another process and close it; return REFUSED, OPENED, NOT_MADE or an error.

    NOT_MADE: the factory has no name, such as a lambda, so that no other process can call it.
    """
    try:
        file.write_bytes(pickle.dumps((make, arguments)))
    except (pickle.PicklingError, AttributeError, TypeError):
        return NOT_MADE
    ended = subprocess.run(
        [sys.executable, "-P", "-m", __name__, str(file)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = ended.stdout.splitlines()
    return json.loads(lines[-1]) if lines else ended.stderr.strip()[-300:]


def _main(file: str) -> str:
    try:
        make, arguments = pickle.loads(Path(file).read_bytes())
    except (ImportError, AttributeError):
        return NOT_MADE
    try:
        make(**arguments).close()
    except FotmemError:
        return REFUSED
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return OPENED


if __name__ == "__main__":
    print(json.dumps(_main(sys.argv[1])))
