"""The indexes of stores, kept beside the memory that they were built from."""

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from fotmem.directory.index_file import (
    Arrays,
    IndexArrays,
    IndexFileError,
    IndexHeader,
    IndexStart,
    index_data,
)
from fotmem.directory.remembered_tokens import RememberedTokens
from fotmem.disk import Storage
from fotmem.errors import StorageError

LOG = logging.getLogger("fotmem")
FOLDER = "indexes"
STORE_NAME = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,99}")
LAYER_NAME = re.compile(r"[0-9]{2,4}")
PARTIAL_NAME = re.compile(r"[0-9]{2,4}\.[0-9a-f]{32}\.partial")


def index_files(storage: Storage) -> Iterator[str]:
    """List the files of indexes, and partial ones."""
    for store in filter(STORE_NAME.fullmatch, storage.names(FOLDER)):
        for name in storage.names(f"{FOLDER}/{store}"):
            if LAYER_NAME.fullmatch(name) or PARTIAL_NAME.fullmatch(name):
                yield f"{FOLDER}/{store}/{name}"


class KeptIndexes:
    """Files ``indexes/STORE/LAYER`` in a memory's directory.

    They are derived from keys, and never a part of a commit: whatever is wrong with one, it is
    built again. What is wrong is logged under the name ``fotmem``.

    Parameters
    ----------
    directory : RememberedTokens
    trusted : bool
        Whether to load indexes that fotmem did not write for this user: libraries parse them by
        code that expects no attacker.
    """

    def __init__(self, directory: RememberedTokens, *, trusted: bool = False) -> None:
        self._directory = directory
        self._trusted = trusted
        self._tokens: dict[int, str] = {}  # checksums, by number of tokens
        self._rows: dict[str, int] = {}  # of indexes that were read or written here

    def forget(self) -> None:
        """Forget what is known of tokens and indexes: the directory has changed."""
        self._tokens, self._rows = {}, {}

    def rows(self, store: str, layer: int) -> int | None:
        """Return how many tokens an index knows that was read or written here."""
        return self._rows.get(self._key(store, layer))

    def read(
        self, store: str, layer: int, made_by: Mapping[str, Any], unread: Sequence[str] = ()
    ) -> tuple[int, IndexArrays] | None:
        """Return the rows and arrays of an index; None if there is none that can be used.

        Parameters
        ----------
        store : str
            Name of the store.
        layer : int
        made_by : mapping of str to Any
            Library, version, sizes and options, which must be those of the index.
        unread : sequence of str
            How the names of arrays begin that carry checksums of their own: they are not read.
        """
        key = self._key(store, layer)
        try:
            start = IndexStart.read(self._directory.storage, key)
            if start is None:
                return None
            self._check(start, store, layer, made_by)
            self._check_origin(start, key)
            arrays = start.arrays(unread, partial(self._refuse, key))
            self._rows[key] = start.header.rows
            return start.header.rows, arrays
        except (IndexFileError, StorageError) as error:
            name = self._directory.name
            LOG.warning("the index %s of %s is built anew: %s", key, name, error)
            return None

    def refuse(self, store: str, layer: int) -> None:
        """Note that an index was read and cannot be used: the next one is written in its place."""
        self._rows.pop(self._key(store, layer), None)

    def _refuse(self, key: str, problem: str) -> None:
        """Take note of damage that was found after an index was read.

        A reader may never close the directory, so it removes the file at once; a writer may be
        committing in another thread, and writes the file anew when it closes.
        """
        directory = self._directory
        self._rows.pop(key, None)
        LOG.warning("the index %s of %s is built anew: %s", key, directory.name, problem)
        if directory.keeps_indexes and directory.storage.read_only:
            with suppress(StorageError):  # where it has to stay, it is found damaged again
                directory.storage.remove(key)

    def write(
        self, store: str, layer: int, made_by: Mapping[str, Any], rows: int, arrays: Arrays
    ) -> None:
        """Keep an index, in place of an older one; what fails is logged."""
        if not STORE_NAME.fullmatch(store) or not self._directory.keeps_indexes:
            return
        key = self._key(store, layer)
        try:
            if self._directory.is_overtaken():
                LOG.info("the index %s is not kept: the memory has changed since", key)
                return
            header = IndexHeader(
                directory_id=self._directory.directory_id,
                compactions=self._directory.compactions,
                store=store,
                layer=layer,
                rows=rows,
                tokens=self._checksum_of_tokens(rows),
                made_by=dict(made_by),
                arrays=(),
            )
            self._directory.storage.write(key, index_data(header, arrays), synced=True)
            self._rows[key] = rows
        except StorageError as error:
            LOG.warning("the index %s is not kept: %s", key, error)

    def tidy(self) -> None:
        """Remove what killed processes left, and indexes of another memory or version."""
        try:
            self._remove_stale()
        except StorageError as error:
            LOG.warning("old indexes of %s are left there: %s", self._directory.name, error)

    def check(self, key: str, start: IndexStart) -> None:
        """Raise `IndexFileError` if an index cannot be used, whatever store asks for it."""
        header = start.header
        if key != self._key(header.store, header.layer):
            raise IndexFileError(f"it is of layer {header.layer} in a store {header.store}")
        self._check_rows(header)
        if self._directory.storage.is_own(key):  # others need to be trusted anyway
            self._check_origin(start, key)

    def _remove_stale(self) -> None:
        storage = self._directory.storage
        for key in index_files(storage):
            if PARTIAL_NAME.fullmatch(key.rpartition("/")[2]) or self._is_stale(key):
                storage.remove(key)

    def _is_stale(self, key: str) -> bool:
        try:
            start = IndexStart.read(self._directory.storage, key)
            if start is not None:
                self._check_rows(start.header)
        except IndexFileError:
            return True
        return False

    def _check(self, start: IndexStart, store: str, layer: int, made_by: Mapping[str, Any]) -> None:
        """Raise `IndexFileError` unless an index is the one that is wanted."""
        header = start.header
        self._check_rows(header)
        mine = {"store": store, "layer": layer, **made_by}
        theirs = {"store": header.store, "layer": header.layer, **header.made_by}
        if differing := [
            name for name in sorted(mine | theirs) if mine.get(name) != theirs.get(name)
        ]:
            name = differing[0]
            raise IndexFileError(
                f"it was made with {name} {theirs.get(name)}, wanted {mine.get(name)}"
            )

    def _check_rows(self, header: IndexHeader) -> None:
        """Raise `IndexFileError` unless an index is of the tokens of this memory."""
        if header.directory_id != self._directory.directory_id:
            raise IndexFileError("it belongs to another memory")
        if header.compactions != self._directory.compactions:
            raise IndexFileError("documents were dropped since it was made, which changed ids")
        if header.rows > len(self._directory):
            raise IndexFileError(
                f"it knows {header.rows} tokens, the memory has {len(self._directory)}"
            )
        if header.tokens != self._checksum_of_tokens(header.rows):
            raise IndexFileError("it was made of other tokens")

    def _check_origin(self, start: IndexStart, key: str) -> None:
        """Raise `IndexFileError` unless this user's fotmem wrote an index, or it is trusted."""
        if self._trusted or (start.is_sealed and self._directory.storage.is_own(key)):
            return
        raise IndexFileError(
            "it was not written by fotmem for this user, and libraries parse indexes by code that "
            "expects no attacker; if you trust the folder, open it with trusted=True"
        )

    def _checksum_of_tokens(self, rows: int) -> str:
        if rows not in self._tokens:
            ids, _, _ = self._directory.tokens(0, rows)
            data = ids.numpy().astype("<i8").tobytes()
            self._tokens[rows] = hashlib.sha256(data).hexdigest()
        return self._tokens[rows]

    def _key(self, store: str, layer: int) -> str:
        return f"{FOLDER}/{store}/{layer:02d}"
