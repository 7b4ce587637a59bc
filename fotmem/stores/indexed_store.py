"""A base for stores that find keys by an index of some library."""

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fotmem.attention import block_length
from fotmem.disk import SavedRows
from fotmem.errors import StorageError, one_line
from fotmem.stores.brute_force import best_hits, exact_search, in_blocks
from fotmem.stores.buffers import Place
from fotmem.stores.hits import Bias, Hits
from fotmem.stores.hub_keys import HubKeys
from fotmem.stores.id_ranges import IdRanges
from fotmem.stores.options import StoreOptions
from fotmem.stores.parallel import ReadWriteLock, Result
from fotmem.stores.rerank_numpy import NumpyReranker
from fotmem.stores.rows_store import RowsStore
from fotmem.stores.saved_index import Arrays, SavedIndex, named_parts, part_of
from fotmem.stores.store import MemoryStore

LOG = logging.getLogger("fotmem")
EXACT_BELOW = 4096
"""Fewer keys than this are all compared: that is as fast as an index."""
LARGE_SHARE = 8
"""All keys are compared where more than an eighth of them are wanted: that is faster."""
RECENT = 4096
"""Newest keys that are all compared where there is a bias: a decay favours them."""
BIASED = 2
"""Candidates per hit where there is a bias, which the index does not see."""


class IndexedOptions(StoreOptions):
    """Options that all stores with an index have."""

    keys: Place = "ram"
    """Where full keys are kept: ``ram``, or ``mmap``, a temporary file."""
    values: Place = "ram"
    """Where values are kept: ``ram`` (or the device), or ``mmap``, a temporary file."""
    threads: int | None = Field(default=None, ge=1, le=1024)
    """Threads that search and build; default: the number that torch uses."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of what is drawn at random while the index is built."""


class IndexedStore(RowsStore):
    """Base of a store that finds keys by an index of some library.

    It keeps keys and values itself, and compares all keys while there are fewer than 4,096. Beyond,
    the index finds candidates, which are re-ranked by the keys as stored. Every query is also
    compared with the *hub keys*, which attention queries often want and an index seldom finds. A
    subclass implements `build_index`, `extend_index`, `find_candidates` and `copy_index`.

    The index sees float32 keys on the CPU and counts rows, as inner methods do. Several threads may
    search it at a time, but never while it changes.

    Parameters
    ----------
    options : IndexedOptions
        Where keys and values are kept, threads and seed.
    **layer
        As for `MemoryStore`.

    Attributes
    ----------
    first_row, indexed_rows : int
        The index holds the rows from the first to before the second; 0 and 0: there is no index.
    index_library : str
        Name and version of the library, such as ``faiss 1.15.1``: the index can be saved. An
        attribute of the class.
    """

    index_library: ClassVar[str] = ""

    def __init__(self, *, options: IndexedOptions, **layer: Any) -> None:
        super().__init__(keys=options.keys, values=options.values, **layer)
        self.options = options
        self.indexed_rows = 0
        self.first_row = 0
        self._hubs: HubKeys | None = None
        self._reranker: NumpyReranker | None = None  # of few queries, on the CPU
        self._lock = ReadWriteLock()
        self._filling = False  # the index comes when all keys are there
        self._progress: Callable[[int], None] | None = None

    # What a subclass implements ----------------------------------------------------------------

    @abstractmethod
    def build_index(self) -> None:
        """Build the index from the keys that ``key_blocks(first_row, len(stored_keys))`` yields."""

    @abstractmethod
    def extend_index(self, first: int, keys: Tensor) -> None:
        """Append keys ``[H, n, D]``, the rows from `first` on."""

    @abstractmethod
    def find_candidates(self, queries: Tensor, top_k: int) -> Tensor:
        """Find candidates for queries ``[H, Q, D]``, contiguous float32 on the CPU.

        Returns rows ``[H, Q, K]``, -1 where there are fewer. ``K`` may be more or less than
        `top_k`. Forgotten rows may be among them.
        """

    @abstractmethod
    def copy_index(self, twin: Self) -> None:
        """Give `twin`, a shallow copy of this store, its own index."""

    def tune_index(self) -> None:
        """Tell the index that `options` have changed; only `search_options` do."""

    def count_compared(self, queries: Tensor) -> float | None:
        """Count the keys that the index compares with each query ``[H, Q, D]``: the mean.

        For `share_read`; queries come as to `find_candidates`. None if the index cannot tell.
        """
        return None

    def index_bytes(self) -> int:
        """Return the bytes of the index in RAM, for `ram_bytes`; 0: the library does not tell.

        It is asked while there is an index, perhaps in the midst of a change by another thread.
        """
        return 0

    def index_arrays(self) -> Arrays:
        """Return the index as arrays; needed where the class names `index_library`."""
        raise NotImplementedError("a store that names index_library implements index_arrays")

    def load_index(self, arrays: Arrays) -> None:
        """Take over the index that `index_arrays` returned, instead of building it.

        The store holds the keys of that index, and perhaps more. Raise whatever error there is:
        the index is built then.
        """
        raise NotImplementedError("a store that names index_library implements load_index")

    # What a subclass may call -----------------------------------------------------------------

    def reading(self, read: Callable[[], Result]) -> Result:
        """Call a function while the index does not change; other threads may read, too."""
        return self._lock.reading(read)

    # What it does with them --------------------------------------------------------------------

    @property
    def ram_bytes(self) -> int:
        """Bytes in RAM: of the index, and of keys and values that lie in no directory."""
        return super().ram_bytes + (self.index_bytes() if self.indexed_rows else 0)

    def add_rows(self, keys: Tensor, values: Tensor) -> None:
        first, add = len(self.stored_keys), super().add_rows

        def grow() -> None:
            try:
                add(keys, values)
                if not self._filling:
                    self._update_index(first)
            except BaseException:  # some heads may have these keys: no search may see that
                self._cut_back(first, self.forgotten_rows)
                raise

        self._lock.writing(grow)

    def fill(
        self,
        blocks: Iterable[tuple[Tensor, Tensor]],
        index: SavedIndex | None = None,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> bool:
        try:
            try:
                self._filling = True  # until then, searches compare all keys
                super().fill(blocks)
                self._progress = progress
                return self._lock.writing(lambda: self._take_over(index))
            finally:
                self._filling, self._progress = False, None
        finally:  # once more: Ctrl-C may have come in between
            self._filling, self._progress = False, None

    def adopt_rows(self, saved: SavedRows) -> int:
        if saved.log.end < EXACT_BELOW or self.stored_keys.device.type != "cpu":
            return 0
        keys, values = saved.mapped("keys"), saved.mapped("values")  # whatever fails, fails here
        self.stored_keys.begin_with(keys)
        self.stored_values.begin_with(values)
        return saved.log.end

    def _take_over(self, index: SavedIndex | None) -> bool:
        """Load an index, and add the keys that it does not know; or build one."""
        loaded = index is not None and self._is_loaded(index)
        try:
            self._update_index(self.indexed_rows)
        except BaseException:
            self._drop_index()
            raise
        return loaded

    def _is_loaded(self, index: SavedIndex) -> bool:
        """Load an index that fits; return whether that was possible."""
        if not self.made_by or index.made_by != self.made_by:
            return False
        try:
            self._load(index)
        except Exception as error:
            self._drop_index()
            kind = type(self).__name__
            LOG.warning("the saved index of %s is built anew: %s", kind, one_line(error))
            return False
        return True

    @property
    def made_by(self) -> dict[str, Any]:
        if not self.index_library:
            return {}
        aside = {"keys", "values", "threads", *self.search_options}
        return {
            "store": self.store_name or type(self).__name__,
            "library": self.index_library,
            "num_heads": self.num_heads,
            "head_dim": self.head_dim,
            "dtype": str(self.dtype).removeprefix("torch."),
            "options": self.options.model_dump(mode="json", exclude=aside),
        }

    def save_index(self) -> SavedIndex | None:
        if not (self.indexed_rows and self.index_library and self._hubs is not None):
            return None
        arrays = {
            "first_row": np.array([self.first_row]),
            **named_parts("hubs", self._hubs.arrays()),
            **named_parts("index", self.index_arrays()),
        }
        return SavedIndex(self.made_by, self.indexed_rows, arrays)

    def _load(self, index: SavedIndex) -> None:
        """Take over an index that was saved."""
        first = int(index.arrays["first_row"][0])
        if not self.forgotten_rows <= first < index.rows <= len(self.stored_keys):
            raise StorageError(
                f"an index of rows {first} to {index.rows} does not belong to the "
                f"{len(self.stored_keys)} keys of this store; build it anew"
            )
        self._hubs = HubKeys.of_arrays(part_of(index.arrays, "hubs"), self.device)
        self.load_index(part_of(index.arrays, "index"))
        self.tune_index()
        self.first_row, self.indexed_rows = first, index.rows
        if self.device.type == "cpu":
            self._reranker = NumpyReranker(self._hubs)

    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        return self.search_rows_biased(queries, top_k, None)

    def search_rows_biased(self, queries: Tensor, top_k: int, bias: Bias | None) -> Hits:
        if LARGE_SHARE * top_k > len(self.stored_keys) - self.forgotten_rows:
            return super().search_rows_biased(queries, top_k, bias)
        return self._search_index(queries, top_k, bias)

    def search_rows_among(
        self, queries: Tensor, top_k: int, rows: IdRanges, bias: Bias | None
    ) -> Hits:
        if self.indexed_rows:
            return MemoryStore.search_rows_among(self, queries, top_k, rows, bias)
        return super().search_rows_among(queries, top_k, rows, bias)

    def _search_index(self, queries: Tensor, top_k: int, bias: Bias | None) -> Hits:
        """Choose among candidates of the index, hub keys and the newest keys."""
        queries, end = queries.float().contiguous(), len(self.stored_keys)
        candidates = top_k if bias is None else BIASED * top_k
        indexed, hubs, reranker, found = self._lock.reading(
            lambda: (
                self.indexed_rows,
                self._hubs,
                self._reranker,
                self.find_candidates(queries.cpu(), candidates) if self.indexed_rows else None,
            )
        )
        newest = indexed if bias is None else min(indexed, max(0, end - RECENT))
        start, parts = max(newest, self.forgotten_rows), []
        if found is not None and hubs is not None:
            parts = self._rerank(queries, found, hubs, reranker, top_k, bias)
            if newest < indexed:
                parts = [
                    Hits(ids, scores.masked_fill(ids >= start, -torch.inf)) for ids, scores in parts
                ]
        if not parts or start < len(self.stored_keys):
            first, keys = self.stored_keys.since(start)
            here = keys.to(self.device)
            parts.append(exact_search(queries, here, top_k, first_id=first, bias=bias))
        return best_hits(parts, top_k)

    def _rerank(
        self,
        queries: Tensor,
        found: Tensor,
        hubs: HubKeys,
        reranker: NumpyReranker | None,
        top_k: int,
        bias: Bias | None,
    ) -> list[Hits]:
        """Score candidates and hub keys by the keys as stored, each key once."""
        if reranker is not None and reranker.suits(found):
            return [reranker.rerank(queries, found, self.stored_keys, top_k, bias, self.first_row)]
        found = found.to(self.device)
        found = found.masked_fill(hubs.contain(found), -1)
        return [self._scored(queries, found, bias), hubs.search(queries, top_k, bias)]

    def tune_options(self, options: dict[str, Any]) -> None:
        changed = self.options.changed(options)

        def tune() -> None:
            self.options = changed
            if self.indexed_rows:
                self.tune_index()

        self._lock.writing(tune)

    def forget_rows(self, count: int) -> None:
        first, forget = self.forgotten_rows + count, super().forget_rows
        if 2 * (first - self.first_row) < self.indexed_rows - self.first_row:
            return  # the base class hides them until building anew costs no more than adding did

        def begin_anew() -> None:
            before, self.first_row = self.first_row, first
            try:
                self._drop_index()
                self._update_index(first)
                forget(count)
            except BaseException:
                self._cut_back(len(self.stored_keys), before)
                raise

        self._lock.writing(begin_anew)

    def undo_rows(self, added: int, forgotten: int, forgetting: int) -> int:
        first = super().undo_rows(added, forgotten, forgetting)
        self._lock.writing(lambda: self._cut_back(added, first))
        return first

    def _cut_back(self, end: int, start: int) -> None:
        """Keep only the rows before `end`, and no index: the next `add` builds it anew."""
        self._drop_index()
        self.first_row = start
        self.stored_keys.truncate(end)
        self.stored_values.truncate(end)

    def copy_rows(self) -> Self:
        twin = super().copy_rows()
        twin._lock = ReadWriteLock()
        if self.indexed_rows:
            self.copy_index(twin)
        return twin

    def share_read(self, queries: Tensor, top_k: int) -> float | None:
        queries = self.checked_queries(queries).float().contiguous().cpu()

        def share() -> float | None:
            if self._hubs is None:
                return 1.0
            compared = self.count_compared(queries)
            return None if compared is None else min(1.0, (compared + self._hubs.most) / self._live)

        return self._lock.reading(share)

    def key_blocks(self, start: int, stop: int) -> Iterator[tuple[int, Tensor]]:
        """Yield the first row and the keys ``[H, n, D]`` of each block, float32 on the CPU."""
        length = block_length(self.num_heads, self.head_dim)
        for first, keys in self.stored_keys.blocks(start, stop, length):
            yield first, keys.float().cpu().contiguous()
            if self._progress is not None:
                self._progress(first + keys.shape[1])

    def _update_index(self, first: int) -> None:
        """Add the keys from `first` on to the index and to the hub keys."""
        end = len(self.stored_keys)
        if not self.indexed_rows:
            if end - self.first_row < EXACT_BELOW:
                return
            first = self.first_row
            self._hubs = HubKeys.of(self._sample())
            self.build_index()
        assert self._hubs is not None
        before = self._hubs if self._reranker else None
        for start, keys in self.key_blocks(first, end):
            if self.indexed_rows:
                self.extend_index(start, keys)
            ids = torch.arange(start, start + keys.shape[1], device=self.device)
            total = start + keys.shape[1] - self.first_row
            self._hubs = self._hubs.grown(ids, keys.to(self.device), total)
        if self._hubs is not before and self.device.type == "cpu":
            self._reranker = NumpyReranker(self._hubs)
        self.indexed_rows = end

    def _sample(self) -> Tensor:
        """Return some of the keys ``[H, n, D]``, on the store's device."""
        _, keys = next(self.key_blocks(self.first_row, len(self.stored_keys)))
        return keys.to(self.device)

    def _drop_index(self) -> None:
        self.indexed_rows, self._hubs, self._reranker = 0, None, None

    def _scored(self, queries: Tensor, ids: Tensor, bias: Bias | None) -> Hits:
        """Compute the scores of candidates from the keys as stored."""

        def scored(some: slice) -> Hits:
            chosen = ids[:, some]
            keys = self.stored_keys.take(chosen).float()  # [H, Q, K, D]
            scores = (keys @ queries[:, some, :, None]).squeeze(-1)
            if bias is not None:
                scores += bias(chosen.clamp(min=self.first_row))
            return Hits(chosen, scores.masked_fill_(chosen < 0, -torch.inf))

        length = block_length(self.num_heads, ids.shape[2], self.head_dim)
        return in_blocks(scored, ids.shape[1], length)
