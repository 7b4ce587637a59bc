"""What needs the packages of the extra ``bench``."""

from importlib.util import find_spec

from fotmem.errors import MissingPackageError


def require(command: str, *packages: str) -> None:
    """Raise `MissingPackageError` unless packages of the extra are installed."""
    for package in packages:
        if find_spec(package) is None:
            raise MissingPackageError(
                command, f"needs {package}, not installed: pip install 'fotmem[bench]'"
            )
