"""Raises, when imported, unless what `fotmem.testing` needs is installed."""

import importlib.util

from fotmem.errors import MissingPackageError

for _name in ("hypothesis", "pytest"):
    if importlib.util.find_spec(_name) is None:
        raise MissingPackageError(
            "fotmem.testing", f"needs {_name}, not installed: pip install 'fotmem[testing]'"
        )
