"""Reads the texts of datasets: saved on disk, and of the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fotmem.errors import InputError, one_line, require_packages, shown

HUB = "hub:"
"""What the name of a dataset of the hub begins with."""
NAMED = re.compile(r"hub:(?P<name>[\w-][\w.-]*(?:/[\w-][\w.-]*)?)(?::(?P<split>[\w.-]+))?")
MARKS = ("dataset_dict.json", "dataset_info.json")
"""Files that a dataset on disk has one of."""


def is_dataset(path: Path) -> bool:
    """Return whether a folder is a dataset that `datasets` saved."""
    return any((path / mark).is_file() for mark in MARKS)


def saved_texts(path: Path, field: str) -> Iterator[tuple[int, str]]:
    """Yield the number of each row, from 1, and its text.

    Raises
    ------
    InputError
        The dataset is damaged, has several splits or no such column, or a row has no string.
    """
    require_packages("a dataset on disk", "datasets", extra="documents")
    from datasets import Dataset, load_from_disk

    try:
        dataset = load_from_disk(str(path))
    except Exception as error:  # its own types of error vary
        raise InputError(
            f"{path} is a damaged or empty dataset ({one_line(error)}); save it anew"
        ) from error
    if not isinstance(dataset, Dataset):
        splits = ", ".join(str(path / split) for split in dataset)
        raise InputError(f"{path} has several splits; choose one of {splits}")
    return _texts(dataset, str(path), field)


def hub_texts(source: str, field: str) -> Iterator[tuple[int, str]]:
    """Yield the same of a dataset of the hub, which is downloaded while it is read.

    Raises
    ------
    InputError
        The hub cannot be reached, or has no such dataset; or a reason of `saved_texts`.
    """
    named = NAMED.fullmatch(source)
    if named is None:
        raise InputError(f"expected hub:NAME or hub:NAME:SPLIT, got {source!r}")
    if Path(named["name"]).exists():
        raise InputError(
            f"{named['name']} is a local folder, too, which would be read in place of {source}; "
            "name it alone, or start elsewhere"
        )
    require_packages(source, "datasets", extra="documents")
    dataset = _hub_dataset(source, named["name"], named["split"])
    if isinstance(dataset, dict):  # of splits
        splits = [f"{source}:{split}" for split in dataset]
        if len(splits) > 1:
            raise InputError(f"{source} has several splits; choose one of {', '.join(splits)}")
        dataset = next(iter(dataset.values()))
    return _texts(dataset, source, field)


def _hub_dataset(source: str, name: str, split: str | None) -> Any:
    from datasets import load_dataset

    try:
        return load_dataset(name, split=split, streaming=True)
    except Exception as error:  # its own types of error vary
        raise InputError(
            f"{source} cannot be loaded ({one_line(error)}); check the name and the network. "
            "Where there is no network, name a dataset saved by datasets' save_to_disk"
        ) from error


def _texts(dataset: Any, name: str, field: str) -> Iterator[tuple[int, str]]:
    if field in (dataset.column_names or ()):
        dataset = dataset.select_columns([field])  # the others need not be read
    number = 0
    for number, row in enumerate(_rows(dataset, name), 1):
        if field not in row:
            raise InputError(
                f"{name} must be a dataset with a {field} column, got {', '.join(row)}"
            )
        if not isinstance(row[field], str):
            raise InputError(
                f"{name}, row {number}: {field} must be a string, got {shown(row[field])}"
            )
        yield number, row[field]
    if not number:
        raise InputError(f"{name} is empty; name a dataset that has texts")


def _rows(dataset: Iterable[Any], name: str) -> Iterator[Any]:
    try:
        yield from dataset
    except Exception as error:  # damaged files, a lost connection
        raise InputError(f"{name} cannot be read to its end ({one_line(error)})") from error
