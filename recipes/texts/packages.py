"""Packages of Debian, downloaded and unpacked without root, and without installing them."""

import subprocess
from pathlib import Path
from typing import NamedTuple

from fotmem.errors import InputError

CURE = "make texts needs Debian or Ubuntu, such as the container debian:stable"


class Package(NamedTuple):
    """An unpacked package."""

    folder: Path
    """Holds its files, from `usr` on."""
    version: str


def unpack(name: str, folder: Path) -> Package:
    """Download a package with the user's apt, and unpack it into a folder of its own.

    Raises
    ------
    InputError
        There is no apt-get or dpkg-deb, no such package, or no network.
    """
    target = folder / name
    target.mkdir(parents=True)
    _run(name, ["apt-get", "download", "--quiet", name], target)
    (file,) = target.glob("*.deb")
    version = _run(name, ["dpkg-deb", "--field", file.name, "Version"], target).strip()
    _run(name, ["dpkg-deb", "--extract", file.name, "."], target)
    file.unlink()
    return Package(target, version)


def _run(package: str, words: list[str], folder: Path) -> str:
    """Run a command in a folder; return what it prints."""
    try:
        run = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise InputError(
            f"the package {package} cannot be downloaded: there is no {words[0]}; {CURE}"
        ) from error
    except subprocess.CalledProcessError as error:
        raise InputError(
            f"the package {package} cannot be downloaded: `{' '.join(words)}` says:"
            f" {error.stderr.strip()}; check the network, and run apt-get update as root"
        ) from error
    return run.stdout
