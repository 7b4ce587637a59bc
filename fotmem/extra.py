"""What needs packages that only an extra of fotmem installs."""

from importlib.util import find_spec

from fotmem.errors import MissingPackageError


def require(name: str, *packages: str, extra: str = "bench") -> None:
    """Raise `MissingPackageError`, which names all that are missing, unless all are installed.

    Parameters
    ----------
    name : str
        Of what needs them, such as a command.
    *packages : str
        As they are imported.
    extra : str
        What installs them.
    """
    if missing := [package for package in packages if not _installed(package)]:
        *others, last = missing
        listed = f"{', '.join(others)} and {last}" if others else last
        raise MissingPackageError(
            name, f"needs {listed}, not installed: pip install 'fotmem[{extra}]'"
        )


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # half of it is there
        return False
