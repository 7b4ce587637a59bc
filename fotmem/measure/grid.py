"""The settings of stores to measure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fotmem.errors import InputError, OptionError, UnknownStoreError
from fotmem.files import read_toml
from fotmem.measure.setting import Setting
from fotmem.plugin.create import find_store, validated_options
from fotmem.plugin.registry import available_stores

Grid = Mapping[str, Mapping[str, list[Any]]]
"""Values of options, by store."""


def settings(stores: Iterable[str], grid: Grid | None = None) -> list[Setting]:
    """Return all combinations of options; by default of those that a store's spec proposes.

    The defaults of a store come first.

    Parameters
    ----------
    stores : iterable of str
        Names of stores. A store whose package is missing fails later, when it is measured.
    grid : mapping, optional
        Values of options by store, instead of its `StoreSpec.grid`.

    Raises
    ------
    UnknownStoreError, OptionError
        There is no such store or option, a value is not allowed, or the grid has another store.
    """
    stores = list(dict.fromkeys(stores))
    for name in grid or {}:
        if name not in available_stores():
            raise UnknownStoreError(name, stores)
        if name not in stores:
            raise OptionError(
                f"the grid has {name}, which --stores does not name ({', '.join(stores)}): name it "
                "there, or leave it out"
            )
    found = []
    for store in stores:
        spec = available_stores().get(store) or find_store(store)
        fields = spec.options.model_fields
        values = (grid or {}).get(store, spec.grid)
        every = [
            dict(zip(values, some, strict=True)) for some in itertools.product(*values.values())
        ]
        for options in every:
            validated_options(spec, options)
        # A store is built for the first setting, that of users, and tuned to the others.
        every.sort(key=lambda some: any(fields[name].default != some[name] for name in some))
        found += [Setting(store=store, options=options) for options in every]
    return found


def read_grid(file: Path) -> Grid:
    """Read a grid from TOML: a table for each store, a list of values for each option.

    Raises
    ------
    InputError
        The file cannot be read, or is not a grid.
    """
    content = read_toml(file)
    for store, options in content.items():
        for name, values in options.items() if isinstance(options, dict) else [("", options)]:
            if not isinstance(options, dict) or not isinstance(values, list) or not values:
                what = f"{store}.{name}" if name else store
                raise InputError(
                    f"{file}: {what} is {values!r}; a grid has a table for each store and a list "
                    "of values for each option, such as [hnsw] and ef_search = [64, 128]"
                )
    return content


def search_changes(setting: Setting, names: Iterable[str]) -> dict[str, Any]:
    """Return the values of options in a setting, with defaults."""
    validated = validated_options(find_store(setting.store), setting.options)
    return {name: getattr(validated, name) for name in names}


def same_build(one: Setting, other: Setting, search_options: Iterable[str]) -> bool:
    """Return whether two settings differ only in options of searching."""
    if one.store != other.store:
        return False
    free = set(search_options)
    first, second = (
        {name: value for name, value in each.options.items() if name not in free}
        for each in (one, other)
    )
    return first == second
