"""The interface of a memory store: keys and values of one memory layer, searchable."""

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any, ClassVar, Concatenate, ParamSpec, Self, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from fotmem.attention import WORKSPACE, PartialAttention, dense_attention, merge, topk_attention
from fotmem.errors import DtypeError, IdError, NonFiniteError, OptionError, ShapeError
from fotmem.stores.checks import (
    checked_bias,
    checked_dtype,
    checked_scale,
    require_dtype,
    require_finite,
    require_tensor,
    usable_device,
    whole,
)
from fotmem.stores.guard import GUARDED, Guard, changes, closes, copies, reads
from fotmem.stores.hits import Bias, Hits
from fotmem.stores.rebuilding import rebuild, twin_of

OVERFETCH = 4
"""A store that cannot search with a bias chooses the best among so many times as many hits."""
LARGEST = 2**63 - 1
"""Ids are below it: they, and the one that would come next, are int64."""
CHANGING = {"add_rows", "forget_rows", "tune_options", "undo_rows"}
MOST = 2**31 - 1
"""Heads, numbers of a key, or hits of a query, at most."""


_Given = ParamSpec("_Given")
_Store = TypeVar("_Store", bound="MemoryStore")
_Result = TypeVar("_Result")


def _in_own_precision(
    method: Callable[Concatenate[_Store, _Given], _Result],
) -> Callable[Concatenate[_Store, _Given], _Result]:
    """Keep the caller's `torch.autocast` out: scores are float32."""

    @functools.wraps(method)
    def call(store: _Store, /, *args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        casting = [name for name in {"cpu", store.device.type} if torch.is_autocast_enabled(name)]
        if not casting:
            return method(store, *args, **kwargs)
        with ExitStack() as stack:
            for name in casting:
                stack.enter_context(torch.autocast(name, enabled=False))
            return method(store, *args, **kwargs)

    return call


class MemoryStore(ABC):
    """Keys and values of one memory layer: ``H`` heads that grow together.

    The public methods check and convert their input, number the keys, and emulate what a store
    cannot do itself. A store implements the inner methods, which get clean input:
    `add_rows`, `search_rows`, `key_rows` and `value_rows`; where it can do better also
    `attend_rows`, `search_rows_biased`, `live_blocks`, `forget_rows`, `undo_rows` and `copy_rows`.
    Inner methods count *rows*: keys, from 0 in the order of adding; they never see -1.

    Searching is safe from several threads at a time, also while another one adds. Changes (`add`,
    `forget`, `tune`, `flush`, `close`, `start_at`) are for one thread at a time: another one, or
    one that copies meanwhile, is refused by `BusyError`. Whatever an inner method raises, a change
    is done as a whole or not at all; Ctrl-C waits until it is done. After `close`, every method
    raises `StorageError`. No gradient flows into or out of a store.

    Attributes
    ----------
    search_options : frozenset of str
        Names of the options that `tune` changes; of the class.

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
        If `dtype` is none of the three.
    OptionError
        If `num_heads` or `head_dim` is no integer of at least 1, or tensors cannot be made on
        `device` here.
    """

    search_options: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        *,
        num_heads: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.num_heads = whole("num_heads", num_heads, least=1, most=MOST)
        self.head_dim = whole("head_dim", head_dim, least=1, most=MOST)
        self.dtype = checked_dtype(dtype)
        self.device = usable_device(device)
        self._offset = 0  # id of the first key ever added
        self._added = 0  # keys ever added
        self._forgotten = 0  # of these, forgotten
        self._unseen: Tensor | None = None  # on CUDA: finite checks whose answer was not awaited
        self._guard = Guard(type(self).__name__)
        self._newest: Tensor | None = None  # key and value [2, H, D] added last, if it rebuilds
        self.has_directory = False  # it has a directory, which the base class cannot build anew

    _made_with: tuple[tuple[Any, ...], dict[str, Any]]
    _rebuilds: ClassVar[bool] = True
    """Whether it is built anew when an inner method raises: what defines the method does not say
    how to take it back."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Note what it is made with, for `new_empty`."""
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

    # What a store implements -----------------------------------------------------------------

    @abstractmethod
    def add_rows(self, keys: Tensor, values: Tensor) -> None:
        """Append ``[H, N, D]`` each, ``N >= 1``, in the store's dtype and device; copy them."""

    @abstractmethod
    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        """Find the best ``top_k <= keys ever added`` for queries ``[H, Q, D]``, ``Q >= 1``.

        Queries come in the caller's dtype on the store's device. Scores are inner products of
        the stored keys. A store that finds fewer fills up with id -1, score -inf; it is not asked
        again for more.
        """

    @abstractmethod
    def key_rows(self, rows: Tensor) -> Tensor:
        """Look up keys: rows ``[H, Q, K]`` -> ``[H, Q, K, D]`` in the store's dtype."""

    @abstractmethod
    def value_rows(self, rows: Tensor) -> Tensor:
        """Look up values: rows ``[H, Q, K]`` -> ``[H, Q, K, D]`` in the store's dtype."""

    def attend_rows(self, queries: Tensor, top_k: int | None, scale: float) -> PartialAttention:
        """Attend with queries ``[H, Q, D]`` to a store that is not empty."""
        return self._attend_to_found(queries, top_k, scale)

    def search_rows_biased(self, queries: Tensor, top_k: int, bias: Bias) -> Hits:
        """Search by inner product plus what `bias` returns for inner ids (forgotten: -inf)."""
        ids, scores = self._search_live(queries, min(OVERFETCH * top_k, self._live))
        ids = ids.to(self.device, torch.long)
        scores = scores.to(self.device) + bias(ids.clamp(min=self._forgotten))
        scores, best = scores.topk(top_k, dim=-1)
        return Hits(ids.gather(-1, best), scores)

    def live_blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all live keys and values, ``[H, n, D]`` each, in blocks of bounded size."""
        length = max(1, WORKSPACE // (self.num_heads * self.head_dim))
        for start in range(self._forgotten, self._added, length):
            ids = torch.arange(start, min(start + length, self._added), device=self.device)
            ids = ids.expand(self.num_heads, 1, -1)
            yield self.key_rows(ids)[:, 0], self.value_rows(ids)[:, 0]

    def forget_rows(self, count: int) -> None:
        """Drop the `count` oldest keys for good. The base class already hides them."""

    def undo_rows(self, added: int, forgotten: int, forgetting: int) -> int:
        """Undo what `add_rows`, `forget_rows` or `tune_options` had done when it raised.

        The base class reads all keys and values that count, by id, and adds them to `new_empty`,
        whose attributes the store takes over. A store that can do better, such as cutting off
        what was added, overrides it; so must one with a directory, which that would lose. What a
        base class overrides counts only if you override none of the three methods yourself.

        Parameters
        ----------
        added : int
            Keys that count: those with the ids before this one. Others must not be there.
        forgotten : int
            Of these, forgotten before the call that raised.
        forgetting : int
            Keys before this one were about to be forgotten; else it equals `forgotten`.

        Returns
        -------
        int
            Keys that are forgotten now: `forgotten`, or `forgetting` if those are lost.

        Raises
        ------
        Exception
            It cannot. All later calls of the store will be refused, with this as the reason.
        """
        self._forgotten = forgetting  # these may be lost
        return rebuild(self, MemoryStore.live_blocks(self))

    def copy_rows(self) -> "MemoryStore":
        """Build an independent store of the same keys. The base class reads and adds them."""
        twin = self.new_empty()
        twin.start_at(self.first_id)
        for keys, values in self.live_blocks():
            twin.add(keys, values)
        return twin

    def tune_options(self, options: dict[str, Any]) -> None:
        """Change some of `search_options`; raise `OptionError` before anything is changed."""
        raise NotImplementedError("a store that names search_options implements tune_options")

    def resume_at(self, first_id: int, added: int, forgotten: int) -> None:
        """Count from where a directory that was reopened left off; for `__init__`.

        Its first key ever got the id `first_id`; `added` keys followed, of which the oldest
        `forgotten` are gone.
        """
        self._offset, self._added, self._forgotten = first_id, added, forgotten
        self.has_directory = True

    def new_empty(self) -> "MemoryStore":
        """Build an empty store like this one, without a directory, for `copy_rows` and `undo_rows`.

        The base class passes the arguments that this one was made with, and its `options`. A store
        that was made with others than numbers, texts and such (a tensor, a connection), which two
        stores would share, overrides it.
        """
        return twin_of(self, *self._made_with)

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
        """Of these, forgotten: the oldest, whose rows are before this one."""
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

    @changes
    def start_at(self, first_id: int) -> None:
        """Number keys from `first_id` on: for a store that replaces another.

        Raises
        ------
        OptionError
            If `first_id` is negative, no integer or beyond int64, or the store has been added to.
        """
        first_id = whole("first_id", first_id, least=0, most=LARGEST - 1)
        if self._added:
            raise OptionError(
                f"first_id must be set before the first add, got {first_id} after "
                f"{self._added} keys"
            )
        self._offset = first_id

    @changes
    @_in_own_precision
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
            Before anything is stored.
        OptionError
            Ids would be beyond int64.
        BusyError
            Another thread is just changing or copying the store.
        """
        for name, tensor in (("keys", keys), ("values", values)):
            self._check(name, tensor, "N")
        if keys.shape != values.shape:
            raise ShapeError("values", expected=f"{list(keys.shape)} as keys", actual=values.shape)
        count = keys.shape[1]
        if count == 0:
            return
        if self.next_id + count > LARGEST:
            raise OptionError(
                f"ids must be below {LARGEST}, got {count} keys for a store whose next id is "
                f"{self.next_id}; let it start at a smaller first_id"
            )
        self._raise_unseen()
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

    @reads
    @_in_own_precision
    def search(self, queries: Tensor, top_k: int, *, bias: Bias | None = None) -> Hits:
        """Find the keys with the largest inner products.

        Parameters
        ----------
        queries : Tensor
            Shape ``[H, Q, D]``, float32, bfloat16 or float16, on any device.
        top_k : int
            Hits per query ``K``, at least 1. Where fewer keys exist, id is -1 and score -inf.
        bias : callable, optional
            What to add to scores, by key: takes ids, int64 of any shape on the store's device, and
            returns float32 of that shape; -inf hides a key. A store that cannot search with a bias
            chooses the best among the ``4 * top_k`` keys with the largest inner products.

        Returns
        -------
        Hits
            On the queries' device, best first; the order of equal scores is free.

        Raises
        ------
        ShapeError, DtypeError, NonFiniteError, OptionError
            Also for what `bias` returns. On CUDA, NaN or Inf in queries, or NaN from `bias`, is
            reported by the next `add`, `flush` or `close`, so that no query waits for the device.
        """
        queries, device = self.checked_queries(queries), queries.device
        top_k = whole("top_k", top_k, least=1, most=MOST)
        if bias is not None:
            bias = checked_bias(bias, self._note_unseen)
        ids, scores = self._best_hits(queries, top_k, bias)
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
        """Look up values by id; parameters and result as for `keys`."""
        return self._look_up(self.value_rows, ids)

    @reads
    @_in_own_precision
    def attend(
        self, queries: Tensor, *, top_k: int | None, scale: float, bias: Bias | None = None
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

        Returns
        -------
        PartialAttention
            ``out [H, Q, D]`` and ``lse [H, Q]`` on the queries' device, ``out`` in their dtype;
            0 and -inf from an empty store. Workspace is bounded, whatever ``Q`` and ``N``.

        Raises
        ------
        ShapeError, DtypeError, NonFiniteError, OptionError
            As `search`.
        """
        given = queries
        queries = self.checked_queries(queries)
        if top_k is not None:
            top_k = whole("top_k", top_k, least=1, most=MOST)
        scale = checked_scale(scale)
        if bias is not None:
            bias = checked_bias(bias, self._note_unseen)
        if self._live == 0 or queries.shape[1] == 0:
            return PartialAttention(torch.zeros_like(given), _no_keys(given))
        if bias is None:
            out, lse = self.attend_rows(queries, top_k, scale)
        else:
            out, lse = self._attend_to_found(queries, top_k, scale, bias)
        return PartialAttention(out.to(given.device, given.dtype), lse.to(given.device))

    @changes
    @_in_own_precision
    def forget(self, count: int) -> None:
        """Drop the `count` oldest keys (all, if there are fewer); other ids do not change.

        Raises
        ------
        OptionError
            If `count` is negative, or no integer.
        BusyError
            Another thread is just changing or copying the store.
        """
        count = min(whole("count", count, least=0), self._live)
        try:
            self.forget_rows(count)
        except BaseException as error:
            self._undo(error, "forget_rows", self._forgotten + count)
            raise
        self._forgotten += count

    @changes
    def tune(self, /, **options: Any) -> None:
        """Change options that only searching uses, such as ``nprobe``; nothing is built anew.

        Raises
        ------
        OptionError
            There is no such option that could be changed (see `search_options`), or its value is
            not allowed. Nothing is changed then.
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

    @reads
    def share_read(self, queries: Tensor, top_k: int) -> float | None:
        """Tell which share of the keys a search compares with each of these queries.

        For benchmarks. Parameters as for `search`.

        Returns
        -------
        float or None
            From 0 to 1, the mean; None if the store cannot tell.
        """
        return None

    @copies
    @_in_own_precision
    def copy(self) -> "MemoryStore":
        """Build an independent store with the same keys, values and ids.

        Raises
        ------
        BusyError
            Another thread is just changing the store.
        """
        twin = self.copy_rows()
        twin._guard = Guard(type(twin).__name__)  # `copy_rows` may have copied attributes
        return twin

    def __deepcopy__(self, memo: dict[int, object]) -> "MemoryStore":
        return self.copy()

    @changes
    def flush(self) -> None:
        """Make everything added durable, where the store is persistent."""
        self._raise_unseen()

    @closes
    def close(self) -> None:
        """Flush, and release what the store holds; closing twice is fine.

        Every other method raises `StorageError` afterwards.
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

    def _best_hits(self, queries: Tensor, top_k: int, bias: Bias | None) -> Hits:
        """Search, with a bias if there is one, and pad to ``top_k`` columns."""
        wanted = min(top_k, self._live)
        if wanted == 0 or queries.shape[1] == 0:
            shape = (self.num_heads, queries.shape[1], top_k)
            ids = torch.full(shape, -1, dtype=torch.long, device=self.device)
            scores = torch.full(shape, -torch.inf, dtype=torch.float32, device=self.device)
            return Hits(ids, scores)
        if bias is None:
            ids, scores = self._search_live(queries, wanted)
        else:
            offset, first = self._offset, self._forgotten

            def live(ids: Tensor) -> Tensor:
                found = bias(ids + offset)
                return found.masked_fill(ids < first, -torch.inf) if first else found

            ids, scores = self.search_rows_biased(queries, wanted, live)
            ids = ids.where(scores > -torch.inf, -1)
        missing = top_k - ids.shape[-1]
        if missing:
            ids = pad(ids, (0, missing), value=-1)
            scores = pad(scores, (0, missing), value=-torch.inf)
        return Hits(ids.to(self.device, torch.long), scores.to(self.device, torch.float32))

    def _search_live(self, queries: Tensor, wanted: int) -> Hits:
        """Search, and hide what was forgotten."""
        search = self._search_remembered if self._forgotten else self.search_rows
        return search(queries, wanted).first(wanted)

    def _search_remembered(self, queries: Tensor, wanted: int) -> Hits:
        """Search among keys of which some are forgotten, asking for more until enough are live."""
        asked = wanted
        while True:
            hits = self.search_rows(queries, asked)
            live = hits.ids >= self._forgotten
            if asked == self._added or hits.ids.shape[-1] < asked:
                break
            if bool(((live.sum(-1) >= wanted) | (hits.ids[..., -1] < 0)).all()):
                break
            asked = min(2 * asked, self._added)
            if queries.shape[1] > 1 and self.num_heads * queries.shape[1] * asked > WORKSPACE:
                parts = [self._search_remembered(half, wanted) for half in queries.chunk(2, dim=1)]
                return Hits(
                    torch.cat([part.ids for part in parts], 1),
                    torch.cat([part.scores for part in parts], 1),
                )
        # A stable sort moves the forgotten behind the live ones and keeps these in order.
        order = live.int().argsort(dim=-1, descending=True, stable=True)[..., :wanted]
        return Hits(
            hits.ids.where(live, -1).gather(-1, order),
            hits.scores.where(live, -torch.inf).gather(-1, order),
        )

    def _attend_to_found(
        self, queries: Tensor, top_k: int | None, scale: float, bias: Bias | None = None
    ) -> PartialAttention:
        if top_k is None:
            return self._attend_to_all(queries, scale, bias)
        top_k = min(top_k, self._live)
        rows = max(1, WORKSPACE // (self.num_heads * top_k * self.head_dim))
        parts = []
        for block in queries.split(rows, dim=1):
            hits = self._best_hits(block, top_k, bias)
            values = self.value_rows(hits.ids.clamp(min=self._forgotten))
            parts.append(topk_attention(hits.scores, values, scale=scale, dtype=queries.dtype))
        return PartialAttention(
            torch.cat([part.out for part in parts], 1), torch.cat([part.lse for part in parts], 1)
        )

    def _attend_to_all(self, queries: Tensor, scale: float, bias: Bias | None) -> PartialAttention:
        # The first part sets the dtype of the merged: float32, or every block would round.
        merged = PartialAttention(torch.zeros_like(queries, dtype=torch.float32), _no_keys(queries))
        start = self.first_id
        for keys, values in self.live_blocks():
            end = start + keys.shape[1]
            ids = torch.arange(start, end, device=self.device)
            mask = None if bias is None else bias(ids) * scale
            part = dense_attention(queries[None], keys[None], values[None], scale=scale, mask=mask)
            merged = merge([merged, PartialAttention(part.out[0], part.lse[0])])
            start = end
        return merged

    def _look_up(self, inner: Callable[[Tensor], Tensor], ids: Tensor) -> Tensor:
        require_tensor("ids", ids)
        if ids.dtype != torch.int64:
            raise DtypeError("ids", expected="int64", actual=ids.dtype)
        if ids.ndim != 3 or ids.shape[0] != self.num_heads:
            raise ShapeError("ids", expected=f"[H={self.num_heads}, Q, K]", actual=ids.shape)
        missing = ids == -1
        outside = ids[~missing & ((ids < self.first_id) | (ids >= self.next_id))]
        if outside.numel():
            start, first, end = self._offset, self.first_id, self.next_id
            raise IdError(int(outside[0]), start=start, first=first, end=end)
        if self._live == 0 or ids.numel() == 0:
            return torch.zeros(*ids.shape, self.head_dim, dtype=self.dtype, device=ids.device)
        inner_ids = ids.where(~missing, self.first_id).to(self.device) - self._offset
        found = inner(inner_ids).to(ids.device)
        return found.masked_fill(missing[..., None], 0)

    def checked_queries(self, queries: Tensor) -> Tensor:
        """Check queries ``[H, Q, D]`` as `search` does, and move them to the store's device."""
        self._check("queries", queries, "Q")
        queries = queries.detach().to(self.device)
        if queries.is_cpu:
            require_finite("queries", queries)
        else:
            self._note_unseen(queries.isfinite().all())
        return queries

    def _note_unseen(self, finite: Tensor) -> None:
        self._unseen = finite if self._unseen is None else self._unseen & finite

    def _raise_unseen(self) -> None:
        unseen, self._unseen = self._unseen, None
        if unseen is not None and not bool(unseen):
            raise NonFiniteError("queries or bias of an earlier search")

    def _check(self, name: str, tensor: Tensor, axis: str) -> None:
        require_tensor(name, tensor)
        require_dtype(name, tensor)
        if (
            tensor.ndim != 3
            or tensor.shape[0] != self.num_heads
            or tensor.shape[2] != self.head_dim
        ):
            expected = f"[H={self.num_heads}, {axis}, D={self.head_dim}]"
            raise ShapeError(name, expected=expected, actual=tensor.shape)

    def _undo(self, error: BaseException, method: str, forgetting: int) -> None:
        """Take back what an inner method left, or refuse the store from now on."""
        try:
            take_back = MemoryStore.undo_rows if self._rebuilds else type(self).undo_rows
            self._forgotten = take_back(self, self._added, self._forgotten, forgetting)
        except BaseException as reason:
            self._guard.refusal = (
                f"this {type(self).__name__} cannot be used any more: {method} raised "
                f"{_one_line(error)}, and what it left cannot be undone ({_one_line(reason)}); "
                "fill another store, or open its directory again"
            )
            error.add_note(self._guard.refusal)


def _no_keys(queries: Tensor) -> Tensor:
    return torch.full(queries.shape[:2], -torch.inf, dtype=torch.float32, device=queries.device)


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
