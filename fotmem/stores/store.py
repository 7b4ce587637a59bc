"""The interface of a memory store: keys and values of one memory layer, searchable."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from fotmem.arguments import checked_integer
from fotmem.attention import PartialAttention, block_length, no_attention
from fotmem.disk import SavedRows
from fotmem.errors import OptionError, ShapeError, one_line
from fotmem.stores.attending import attend_to_all, attend_to_hits
from fotmem.stores.checks import (
    CheckedBias,
    checked_among,
    checked_dtype,
    checked_scale,
    checked_sizes,
    checked_top_k,
    require_dtype,
    require_finite,
    require_ids,
    require_shape,
    require_tensor,
    usable_device,
)
from fotmem.stores.guard import GUARDED, Guard, changes, closes, copies, fills, reads
from fotmem.stores.hidden import LiveBias, Shown, search_among, search_shown
from fotmem.stores.hits import Bias, Hits, best_biased, no_hits
from fotmem.stores.id_ranges import END_OF_IDS, IdRanges
from fotmem.stores.late_checks import LateChecks
from fotmem.stores.own_precision import in_own_precision
from fotmem.stores.rebuilding import Arguments, rebuild, shareable
from fotmem.stores.saved_index import SavedIndex
from fotmem.stores.some_rows import biased_by_position, compare, looked_up, picked
from fotmem.stores.tail_estimate import TailEstimate

OVERFETCH = 4
"""A store that cannot search with a bias chooses among this many times as many hits."""
LOOK_UP = 2
"""Attention to fewer than one in this many keys looks these up, instead of reading all blocks."""
CHANGING = {"add_rows", "forget_rows", "tune_options", "undo_rows"}


class MemoryStore(ABC):
    """Keys and values of one memory layer: ``H`` heads that grow together.

    The public methods check and convert their input, number the keys, and do what a store cannot do
    itself. A store implements the inner methods, whose input is checked: `add_rows`, `search_rows`,
    `key_rows` and `value_rows`; where it can do better, also `attend_rows`, `search_rows_biased`,
    `search_rows_among`, `live_blocks`, `forget_rows`, `undo_rows` and `copy_rows`. Inner methods
    count *rows*: keys, from 0 in the order of adding; they never see -1. Callers see *ids*.

    Several threads may search at a time, also while another one adds. Changes (`add`, `forget`,
    `tune`, `flush`, `close`, `start_at`) are for one thread at a time; `BusyError` refuses a second
    one, and one that copies meanwhile. If an inner method raises, the change is undone; Ctrl-C
    waits until a change is done. After `close`, every method raises `StorageError`. No gradient
    flows into or out of a store.

    Attributes
    ----------
    search_options : frozenset of str
        Options that `tune` may change; an attribute of the class.
    self_checked : tuple of str
        How the names of arrays of `save_index` begin that carry checksums of their own, which the
        store verifies whenever it reads a part of them; an attribute of the class.
    store_name : str
        By which `create_store` made it; otherwise empty.
    has_directory : bool
        Whether it keeps a directory, so that the base class cannot build it anew.

    Parameters
    ----------
    num_heads : int
        Key/value heads ``H`` of the layer.
    head_dim : int
        Head dimension ``D``.
    dtype : torch.dtype
        In which keys and values are kept: float32, bfloat16 or float16.
    device : torch.device or str
        Where they are kept.

    Raises
    ------
    DtypeError
        If `dtype` is another one.
    OptionError
        If `num_heads` or `head_dim` is not an integer of at least 1, or tensors cannot be made on
        `device` here.
    """

    search_options: ClassVar[frozenset[str]] = frozenset()
    self_checked: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        *,
        num_heads: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.num_heads, self.head_dim = checked_sizes(num_heads, head_dim)
        self.dtype = checked_dtype(dtype)
        self.device = usable_device(device)
        self._offset = 0  # id of the first key ever added
        self._added = 0  # keys ever added
        self._forgotten = 0  # of these, forgotten
        self._late_checks = LateChecks()
        self._guard = Guard(type(self).__name__)
        self._newest: Tensor | None = None  # key and value [2, H, D] added last, if it rebuilds
        self.has_directory = False
        self.store_name = ""
        self._shown_ids: Callable[[], IdRanges | None] | None = None

    _made_with: Arguments
    _rebuilds: ClassVar[bool] = True
    """Whether it is built anew when an inner method raises: the class that overrides the method
    does not override `undo_rows`."""
    _biases: ClassVar[bool] = False
    """Whether it overrides `search_rows_biased`."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remember the arguments, for `new_empty`."""
        store = super().__new__(cls)
        store._made_with = args, kwargs
        return store

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, guarded in GUARDED.items():
            if inspect.isfunction(method := vars(cls).get(name)):
                setattr(cls, name, guarded(method))
        definers = (kind for kind in cls.mro() if CHANGING & vars(kind).keys())
        cls._rebuilds = "undo_rows" not in vars(next(definers))
        cls._biases = cls.search_rows_biased is not MemoryStore.search_rows_biased

    # What a store implements -----------------------------------------------------------------

    @abstractmethod
    def add_rows(self, keys: Tensor, values: Tensor) -> None:
        """Append ``[H, N, D]`` each, ``N >= 1``, in the store's dtype and device; copy them."""

    @abstractmethod
    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        """Find the best ``top_k <= keys ever added`` for queries ``[H, Q, D]``, ``Q >= 1``.

        Queries come in the caller's dtype on the store's device. Scores are inner products of
        the stored keys; ids are rows. Where it finds fewer, the rest is -1, score -inf; then it is
        not asked for more.
        """

    @abstractmethod
    def key_rows(self, rows: Tensor) -> Tensor:
        """Look up keys: rows ``[H, Q, K]`` -> ``[H, Q, K, D]`` in the store's dtype."""

    @abstractmethod
    def value_rows(self, rows: Tensor) -> Tensor:
        """Look up values: rows ``[H, Q, K]`` -> ``[H, Q, K, D]`` in the store's dtype."""

    def attend_rows(self, queries: Tensor, top_k: int | None, scale: float) -> PartialAttention:
        """Attend with queries ``[H, Q, D]`` to a store that is not empty."""
        return self._attend(queries, top_k, scale, None)

    def attend_rows_among(
        self, queries: Tensor, scale: float, bias: Bias | None, rows: IdRanges | None
    ) -> PartialAttention:
        """Attend to all of some rows, at least one; None: to all that are not forgotten.

        `bias`, if there is one, takes rows and is added to inner products, before `scale`. The base
        class reads all of these keys; override it in a store that estimates (`estimates_tail`).
        """
        return self._attend_to_all(queries, scale, bias, rows)

    def search_rows_biased(self, queries: Tensor, top_k: int, bias: Bias) -> Hits:
        """Search by inner product plus what `bias` returns for rows (-inf for forgotten ones)."""
        near = self._search_live(queries, min(OVERFETCH * top_k, self._live))
        return best_biased(near, bias, top_k, first=self._forgotten, device=self.device)

    def search_rows_among(
        self, queries: Tensor, top_k: int, rows: IdRanges, bias: Bias | None
    ) -> Hits:
        """Search among these rows only: at least `top_k` of those that are not forgotten.

        The base class searches among all rows, asks for more hits until enough are among these, and
        compares them all where they are few. `bias`, if there is one, is added to inner products.
        """
        if bias is not None and not self._biases:
            most = min(OVERFETCH * top_k, len(rows))
            near = self.search_rows_among(queries, most, rows, None)
            first, _ = next(iter(rows))
            return best_biased(near, bias, top_k, first=first, device=self.device)
        search = self.search_rows
        if bias is not None:
            hiding = LiveBias(bias, first_id=0, shown=rows.contains)
            search = partial(self.search_rows_biased, bias=hiding)
        exactly = partial(self._compare_among, top_k=top_k, rows=rows, bias=bias)
        return search_among(search, exactly, queries, top_k, rows=rows, live=self._live)

    def live_blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all keys that are not forgotten, and their values, oldest first.

        In blocks ``[H, n, D]`` of about `fotmem.attention.WORKSPACE` elements.
        """
        length = block_length(self.num_heads, self.head_dim)
        for start in range(self._forgotten, self._added, length):
            rows = torch.arange(start, min(start + length, self._added), device=self.device)
            rows = rows.expand(self.num_heads, 1, -1)
            yield self.key_rows(rows)[:, 0], self.value_rows(rows)[:, 0]

    def forget_rows(self, count: int) -> None:
        """Free what the `count` oldest keys use. The base class hides them in any case."""

    def undo_rows(self, added: int, forgotten: int, forgetting: int) -> int:
        """Undo what `add_rows`, `forget_rows` or `tune_options` did before it raised.

        The base class looks up all keys and values that count, adds them to `new_empty`, and takes
        over its attributes. Override it where the store can do better, such as by cutting off what
        was added. A store with a directory must override it: it would lose the directory. If you
        override one of the three methods, the `undo_rows` of a base class does not count.

        Parameters
        ----------
        added : int
            Rows that count; those from this one on must go.
        forgotten : int
            Rows before this one were forgotten before the call that raised.
        forgetting : int
            Rows before this one were being forgotten; otherwise it equals `forgotten`.

        Returns
        -------
        int
            How many rows are forgotten now: `forgotten`, or `forgetting` if those are lost.

        Raises
        ------
        Exception
            It cannot. The store then refuses every later call, and gives this as the reason.
        """
        self._forgotten = forgetting  # these may be lost
        return rebuild(self, MemoryStore.live_blocks(self))

    def copy_rows(self) -> "MemoryStore":
        """Build an independent store of the same keys. The base class adds them to `new_empty`."""
        twin = self.new_empty()
        twin.start_at(self.first_id)
        for keys, values in self.live_blocks():
            twin.add(keys, values)
        return twin

    def tune_options(self, options: dict[str, Any]) -> None:
        """Change some of `search_options`; raise `OptionError` before anything is changed."""
        raise NotImplementedError("a store that names search_options implements tune_options")

    def adopt_rows(self, saved: SavedRows) -> int:
        """Take over the first rows of a memory's directory where they lie; return how many.

        Called on an empty store. Either none, 0, or all that are in the log of `saved`, at least
        one; those after them are added. By default all are added. If it raises, it takes over none.
        """
        return 0

    def resume_at(self, first_id: int, added: int, forgotten: int) -> None:
        """Continue a directory that was reopened; call it in `__init__`.

        Row 0 has the id `first_id`; `added` rows were added, of which the oldest `forgotten` are
        gone.
        """
        self._offset, self._added, self._forgotten = first_id, added, forgotten
        self.has_directory = True

    def new_empty(self) -> "MemoryStore":
        """Build an empty store like this one, without a directory, for `copy_rows` and `undo_rows`.

        The base class calls the class with the same arguments, and with `options` as they are now.
        Override it if an argument cannot be shared by two stores, such as a tensor or a connection.
        """
        options, kind = getattr(self, "options", None), type(self)
        args, kwargs = shareable(self._made_with, options, kind=kind.__name__)
        return kind(*args, **kwargs)

    def checked_queries(self, queries: Tensor) -> Tensor:
        """Check queries ``[H, Q, D]`` as `search` does, and move them to the store's device."""
        self._require_vectors("queries", queries, "Q")
        if queries.requires_grad:
            queries = queries.detach()
        queries = queries.to(self.device)
        if queries.is_cpu:
            require_finite("queries", queries)
        else:
            self._late_checks.note(queries.isfinite().all())
        return queries

    # What a caller uses ----------------------------------------------------------------------

    @reads
    def __len__(self) -> int:
        """Count the keys that can be found."""
        return self._live

    @property
    def added_rows(self) -> int:
        """Keys ever added."""
        return self._added

    @property
    def forgotten_rows(self) -> int:
        """Keys that are forgotten: the rows before this one."""
        return self._forgotten

    @property
    def _live(self) -> int:
        # Not `len`: a search that is under way ends well, though another thread closes the store.
        return self._added - self._forgotten

    @property
    def first_id(self) -> int:
        """Id of the oldest key that can be found (of the next one, if the store is empty)."""
        return self._offset + self._forgotten

    @property
    def next_id(self) -> int:
        """Id that the next key gets."""
        return self._offset + self._added

    def show_only(self, ids: Callable[[], IdRanges | None]) -> None:
        """Let searches that are given no `among` take what a function returns; None: all ids.

        So a memory hides removed documents.
        """
        self._shown_ids = ids

    @changes
    def start_at(self, first_id: int) -> None:
        """Give the first key the id `first_id`: for a store that replaces another.

        Raises
        ------
        OptionError
            If `first_id` is negative, no integer or beyond int64, or keys were added already.
        """
        first_id = checked_integer("first_id", first_id, least=0, most=END_OF_IDS - 1)
        if self._added:
            raise OptionError(
                f"first_id must be set before the first add, got {first_id} after "
                f"{self._added} keys"
            )
        self._offset = first_id

    @changes
    @in_own_precision
    def add(self, keys: Tensor, values: Tensor) -> None:
        """Append keys and values; their ids go on from the last one ever added.

        Parameters
        ----------
        keys, values : Tensor
            Both ``[H, N, D]``, float32, bfloat16 or float16, on any device and with any strides;
            converted to the store's dtype and device, and copied. ``N`` may be 0.

        Raises
        ------
        ShapeError, DtypeError, NonFiniteError
            Nothing was stored.
        OptionError
            Ids would be beyond int64.
        BusyError
            Another thread is changing or copying the store.
        """
        for name, tensor in (("keys", keys), ("values", values)):
            self._require_vectors(name, tensor, "N")
        if keys.shape != values.shape:
            raise ShapeError("values", expected=f"{list(keys.shape)} as keys", actual=values.shape)
        count = keys.shape[1]
        if count == 0:
            return
        if self.next_id + count > END_OF_IDS:
            raise OptionError(
                f"ids must be below {END_OF_IDS}, got {count} keys for a store whose next id is "
                f"{self.next_id}; let it start at a smaller first_id"
            )
        self._late_checks.report()
        keys, values = (tensor.detach().to(self.device, self.dtype) for tensor in (keys, values))
        for name, tensor in (("keys", keys), ("values", values)):
            require_finite(name, tensor)
        with torch.inference_mode(False):  # what is made in that mode could not be added to later
            newest = torch.stack([keys[:, -1], values[:, -1]]) if self._rebuilds else None
            try:
                self.add_rows(keys, values)
            except BaseException as error:
                self._undo(error, "add_rows", self._forgotten)
                raise
        self._added += count
        self._newest = newest

    @fills
    def fill(
        self,
        blocks: Iterable[tuple[Tensor, Tensor]],
        index: SavedIndex | None = None,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> bool:
        """Add many keys and values to an empty store, with an index that was saved before.

        Parameters
        ----------
        blocks : iterable of tuple of Tensor
            Keys and values ``[H, N, D]`` each, as for `add`. `SavedRows` of a directory can stay
            there, if the store is able to look them up there.
        index : SavedIndex, optional
            From `save_index` of a store that held these keys, in this order, and perhaps fewer.
            What `made_by` of this store differs from is not loaded.
        progress : callable, optional
            Called now and then with the number of keys that were added, or are in the index.

        Returns
        -------
        bool
            Whether `index` was taken over.

        Raises
        ------
        OptionError
            Keys were added already.
        ShapeError, DtypeError, NonFiniteError
            As from `add`. The blocks before this one stay.
        KeyboardInterrupt
            Ctrl-C does not wait until the index is built: whole blocks stay, and the next `add`
            builds it.
        """
        if self._added:
            raise OptionError(f"fill takes an empty store, got {self._added} keys added before")
        if isinstance(blocks, SavedRows):
            self._adopt(blocks)
            blocks = blocks.since(self._added)
        for keys, values in blocks:
            self.add(keys, values)
            if progress is not None:
                progress(self._added)
        return False

    @changes
    def _adopt(self, saved: SavedRows) -> None:
        if saved.log.end:
            self._added = self.adopt_rows(saved)

    @property
    def made_by(self) -> dict[str, Any]:
        """What an index of this store is made by: library, version, sizes, options. JSON.

        Empty: the store has no index that can be saved.
        """
        return {}

    @copies
    def save_index(self) -> SavedIndex | None:
        """Return the index as arrays, for `fill`; None if there is none, or it cannot be saved.

        Raises
        ------
        BusyError
            Another thread is changing the store.
        """
        return None

    @reads
    @in_own_precision
    def search(
        self,
        queries: Tensor,
        top_k: int,
        *,
        bias: Bias | None = None,
        among: IdRanges | None = None,
    ) -> Hits:
        """Find the keys with the largest inner products.

        Parameters
        ----------
        queries : Tensor
            Shape ``[H, Q, D]``, float32, bfloat16 or float16, on any device.
        top_k : int
            Hits per query ``K``, at least 1. Where fewer keys exist, id is -1 and score -inf.
        bias : callable, optional
            What to add to scores: takes ids, int64 of any shape on the store's device, and returns
            float32 of that shape; -inf hides a key. A store that cannot search with a bias chooses
            the best among the ``4 * top_k`` keys with the largest inner products.
        among : IdRanges, optional
            Ids that may be found; others are as if they were not there. None: all, but those of
            documents that were removed from the store's memory.

        Returns
        -------
        Hits
            On the queries' device, best first; the order of equal scores is free.

        Raises
        ------
        ShapeError, DtypeError, NonFiniteError, OptionError
            Also for what `bias` returns. On CUDA, the next `add`, `flush` or `close` reports NaN or
            Inf in queries, and NaN from `bias`, so that no query waits for the device.
        """
        queries, device = self.checked_queries(queries), queries.device
        top_k = checked_top_k(top_k)
        if bias is not None:
            bias = CheckedBias(bias, self._late_checks.note)
        rows = self._live_rows(among)
        ids, scores = self._best_hits(queries, top_k, bias, rows)
        if self._offset:
            ids = ids.where(ids < 0, ids + self._offset)
        if device != self.device:
            ids, scores = ids.to(device), scores.to(device)
        return Hits(ids, scores)

    @reads
    def keys(self, ids: Tensor) -> Tensor:
        """Look up keys by id.

        Parameters
        ----------
        ids : Tensor
            Shape ``[H, Q, K]``, int64, as from `search`; -1 gives zeros.

        Returns
        -------
        Tensor
            Shape ``[H, Q, K, D]`` in the store's dtype, on the device of `ids`.

        Raises
        ------
        ShapeError, DtypeError, IdError
        """
        return self._look_up(self.key_rows, ids)

    @reads
    def values(self, ids: Tensor) -> Tensor:
        """Look up values by id; parameters and result are those of `keys`."""
        return self._look_up(self.value_rows, ids)

    @reads
    @in_own_precision
    def attend(
        self,
        queries: Tensor,
        *,
        top_k: int | None,
        scale: float,
        bias: Bias | None = None,
        among: IdRanges | None = None,
    ) -> PartialAttention:
        """Attend to the remembered values.

        Parameters
        ----------
        queries : Tensor
            Shape ``[H, Q, D]``, float32, bfloat16 or float16, on any device.
        top_k : int or None
            Softmax over the best `top_k` that `search` finds; None: over all keys.
        scale : float
            Factor of the inner products, above 0, usually ``1 / sqrt(D)``.
        bias : callable, optional
            What to add to inner products, before `scale`, as in `search`.
        among : IdRanges, optional
            Ids that are attended to; None: as for `search`.

        Returns
        -------
        PartialAttention
            ``out [H, Q, D]`` and ``lse [H, Q]`` on the queries' device, ``out`` in their dtype;
            0 and -inf where there is no key. Workspace is bounded, whatever ``Q`` and ``N``.

        Raises
        ------
        ShapeError, DtypeError, NonFiniteError, OptionError
            As `search`.
        """
        given = queries
        queries = self.checked_queries(queries)
        if top_k is not None:
            top_k = checked_top_k(top_k)
        scale = checked_scale(scale)
        if bias is not None:
            bias = CheckedBias(bias, self._late_checks.note)
        rows = self._live_rows(among)
        if self._live == 0 or queries.shape[1] == 0 or (rows is not None and not rows):
            return no_attention(given)
        if bias is None and rows is None:
            out, lse = self.attend_rows(queries, top_k, scale)
        else:
            out, lse = self._attend(queries, top_k, scale, bias, rows)
        return PartialAttention(out.to(given.device, given.dtype), lse.to(given.device))

    @changes
    @in_own_precision
    def forget(self, count: int) -> None:
        """Drop the `count` oldest keys (all, if there are fewer); other ids do not change.

        Raises
        ------
        OptionError
            If `count` is negative, or no integer.
        BusyError
            Another thread is changing or copying the store.
        """
        count = min(checked_integer("count", count, least=0), self._live)
        try:
            self.forget_rows(count)
        except BaseException as error:
            self._undo(error, "forget_rows", self._forgotten + count)
            raise
        self._forgotten += count

    @changes
    def tune(self, /, **options: Any) -> None:
        """Change options that only a search uses, such as ``nprobe``; nothing is rebuilt.

        Raises
        ------
        OptionError
            The option is none of `search_options`, or its value is not allowed. Nothing was
            changed.
        """
        for name in options:
            if name not in self.search_options:
                owner, known = type(self).__name__, self.search_options
                raise OptionError.unknown(name, owner, known, kind="search option")
        if not options:
            return
        before = dict(vars(self))
        try:
            self.tune_options(options)
        except BaseException as error:
            vars(self).update(before)
            if not isinstance(error, OptionError):  # raised before anything is changed
                self._undo(error, "tune_options", self._forgotten)
            raise

    @property
    def disk_bytes(self) -> int:
        """Bytes of the store's temporary files, without the files in its directory."""
        return 0

    @property
    def ram_bytes(self) -> int:
        """Bytes in RAM: of keys, values and an index, as far as its library tells.

        The base class takes the keys and values that are not on disk, and no index.
        """
        if self.has_directory:
            return 0
        every = 2 * self._live * self.num_heads * self.head_dim * self.dtype.itemsize
        return max(0, every - self.disk_bytes)

    @property
    def cache_counts(self) -> tuple[int, int] | None:
        """How many chunks its cache was asked for, and how many it held; None: no cache."""
        return None

    @reads
    def share_read(self, queries: Tensor, top_k: int) -> float | None:
        """Return the share of keys that a search compares with each of these queries.

        For benchmarks. Parameters are those of `search`.

        Returns
        -------
        float or None
            The mean, from 0 to 1; None if the store cannot tell.
        """
        return None

    @reads
    def tail_estimate(self, queries: Tensor, *, scale: float) -> TailEstimate | None:
        """Return how good `attend` to all keys, with ``top_k=None``, expects its output to be.

        For benchmarks. Parameters are those of `attend`.

        Returns
        -------
        TailEstimate or None
            None: the store reads all keys, or cannot tell.
        """
        return None

    @copies
    @in_own_precision
    def copy(self) -> "MemoryStore":
        """Build an independent store with the same keys, values and ids.

        Raises
        ------
        BusyError
            Another thread is changing the store.
        """
        twin = self.copy_rows()
        # `copy_rows` may have copied attributes, these among them.
        twin._guard, twin._late_checks = Guard(type(twin).__name__), LateChecks()
        twin._shown_ids = self._shown_ids
        return twin

    def __deepcopy__(self, memo: dict[int, object]) -> "MemoryStore":
        return self.copy()

    @changes
    def flush(self) -> None:
        """Make everything added durable, where the store is persistent."""
        self._late_checks.report()

    @closes
    def close(self) -> None:
        """Flush, and release what the store holds. Closing twice does nothing more.

        Afterwards every other method raises `StorageError`.
        """
        if not self._guard.refusal:
            self.flush()

    @reads
    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # How the base class does it --------------------------------------------------------------

    def _live_rows(self, among: IdRanges | None) -> IdRanges | None:
        """Return the rows of these ids that are not forgotten; None if all are among them."""
        if among is None and self._shown_ids is not None:
            among = self._shown_ids()
        if among is None:
            return None
        rows = checked_among(among).within(self.first_id, self.next_id)._shifted(-self._offset)
        return None if len(rows) == self._live else rows

    def _best_hits(
        self, queries: Tensor, top_k: int, bias: Bias | None, rows: IdRanges | None
    ) -> Hits:
        """Search, with a bias and among some rows if these are given; ``top_k`` columns of rows."""
        wanted = min(top_k, self._live if rows is None else len(rows))
        if wanted == 0 or queries.shape[1] == 0:
            return no_hits(self.num_heads, queries.shape[1], top_k, self.device)
        if bias is not None:
            shown = self._not_forgotten() if rows is None else None
            bias = LiveBias(bias, first_id=self._offset, shown=shown)
        if rows is not None:
            ids, scores = self.search_rows_among(queries, wanted, rows, bias).padded(top_k)
        elif bias is None:
            ids, scores = self._search_live(queries, wanted).padded(top_k)
        else:
            ids, scores = self.search_rows_biased(queries, wanted, bias).padded(top_k)
        if bias is not None:
            ids = ids.where(scores > -torch.inf, -1)
        return Hits(ids.to(self.device, torch.long), scores.to(self.device, torch.float32))

    def _search_live(self, queries: Tensor, wanted: int) -> Hits:
        """Search, and hide what was forgotten."""
        shown = self._not_forgotten()
        if shown is None:
            return self.search_rows(queries, wanted).first(wanted)
        search, most = self.search_rows, self._added
        return search_shown(search, queries, wanted, shown=shown, asked=wanted, most=most)

    def _not_forgotten(self) -> Shown | None:
        """Return what tells which rows are not forgotten; None if none is."""
        forgotten = self._forgotten
        return (lambda rows: rows >= forgotten) if forgotten else None

    def _compare_among(
        self, queries: Tensor, top_k: int, rows: IdRanges, bias: Bias | None
    ) -> Hits:
        """Search among some rows by comparing all of them."""
        return compare(
            self._vectors_among(self.key_rows, rows), queries, top_k, rows=rows, bias=bias
        )

    def _vectors_among(self, inner: Callable[[Tensor], Tensor], rows: IdRanges) -> Iterator[Tensor]:
        length = block_length(self.num_heads, self.head_dim)
        return looked_up(inner, rows, heads=self.num_heads, length=length, device=self.device)

    def _attend(
        self,
        queries: Tensor,
        top_k: int | None,
        scale: float,
        bias: Bias | None,
        rows: IdRanges | None = None,
    ) -> PartialAttention:
        if top_k is None:
            if bias is not None:
                bias = LiveBias(bias, first_id=self._offset, shown=None)
            return self.attend_rows_among(queries, scale, bias, rows)
        first = self._forgotten
        top_k = min(top_k, self._live if rows is None else len(rows))
        return attend_to_hits(
            lambda some: self._best_hits(some, top_k, bias, rows),
            lambda ids: self.value_rows(ids.clamp(min=first)),
            queries,
            top_k=top_k,
            scale=scale,
        )

    def _attend_to_all(
        self, queries: Tensor, scale: float, bias: Bias | None, rows: IdRanges | None
    ) -> PartialAttention:
        first = self._forgotten
        blocks = self.live_blocks() if rows is None else self._blocks_among(rows)
        if rows is not None and bias is not None:
            bias, first = biased_by_position(bias, rows), 0
        return attend_to_all(blocks, queries, scale=scale, bias=bias, first_id=first)

    def _blocks_among(self, rows: IdRanges) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the keys and values of some rows."""
        if LOOK_UP * len(rows) < self._live:
            both = (self._vectors_among(inner, rows) for inner in (self.key_rows, self.value_rows))
            return zip(*both, strict=True)
        return picked(self.live_blocks(), rows, self._forgotten)

    def _look_up(self, inner: Callable[[Tensor], Tensor], ids: Tensor) -> Tensor:
        first, end = self.first_id, self.next_id
        require_ids(ids, heads=self.num_heads, start=self._offset, first=first, end=end)
        if first == end or ids.numel() == 0:
            return torch.zeros(*ids.shape, self.head_dim, dtype=self.dtype, device=ids.device)
        missing = ids == -1
        found = inner(ids.where(~missing, first).to(self.device) - self._offset).to(ids.device)
        return found.masked_fill(missing[..., None], 0)

    def _require_vectors(self, name: str, tensor: Tensor, axis: str) -> None:
        require_tensor(name, tensor)
        require_dtype(name, tensor)
        require_shape(name, tensor, axis, heads=self.num_heads, head_dim=self.head_dim)

    def _undo(self, error: BaseException, method: str, forgetting: int) -> None:
        """Undo what an inner method left, or refuse the store from now on."""
        try:
            undo = MemoryStore.undo_rows if self._rebuilds else type(self).undo_rows
            self._forgotten = undo(self, self._added, self._forgotten, forgetting)
        except BaseException as reason:
            self._guard.refusal = (
                f"this {type(self).__name__} cannot be used any more: {method} raised "
                f"{one_line(error)}, and what it left cannot be undone ({one_line(reason)}); "
                "fill another store, or open its directory again"
            )
            error.add_note(self._guard.refusal)
