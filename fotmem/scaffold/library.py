"""The library that a new store is built around."""

import re
import sys
from typing import NamedTuple, Self

from fotmem.errors import OptionError

LONGEST = 64
"""Letters of a package or module at most, as lines have at most 100 columns."""


class Library(NamedTuple):
    """A package from PyPI and the module that it is imported by."""

    package: str
    module: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``PACKAGE`` or ``PACKAGE:MODULE``, such as ``usearch`` or ``faiss-cpu:faiss``.

        Raises
        ------
        OptionError
            It is neither, or comes with Python, or has a version.
        """
        package, colon, module = text.partition(":")
        module = module if colon else re.sub(r"[-.]", "_", package).lower()
        if max(len(package), len(module)) > LONGEST:
            raise OptionError(f"a library's names must have at most {LONGEST} letters, got {text}")
        _refuse_version(text)
        named = re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", package)
        modules = module.split(".")
        if not named or not all(part.isidentifier() and part.isascii() for part in modules):
            raise OptionError(
                "a library must be PACKAGE, or PACKAGE:MODULE where it is imported by another "
                f"name (such as faiss-cpu:faiss), got {text!r}"
            )
        if modules[0] in sys.stdlib_module_names:
            raise OptionError(
                f"a library must be a package from PyPI, got {text!r}, which comes with Python; "
                "leave it out"
            )
        return cls(package, module)


def _refuse_version(text: str) -> None:
    if version := re.fullmatch(r"([\w.-]+)(\[.*\])? *[=<>!~].*", text):
        raise OptionError(
            f"a library must be named without a version, got {text!r}; give {version[1]}, and "
            "write the version into dependencies of the pyproject.toml that is written"
        )
