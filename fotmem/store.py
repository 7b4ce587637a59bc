"""The interface of a memory store: keys and values of one memory layer, searchable."""

import functools
import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any, ClassVar, Concatenate, NamedTuple, ParamSpec, Self, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from fotmem.attention import WORKSPACE, PartialAttention, dense_attention, merge, topk_attention
from fotmem.errors import DtypeError, IdError, NonFiniteError, OptionError, ShapeError

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What a store accepts and keeps."""


OVERFETCH = 4
"""A store that cannot search with a bias chooses the best among so many times as many hits."""

Bias = Callable[[Tensor], Tensor]
"""Takes ids of keys, int64 of any shape, and returns what is added to their scores."""


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


class Hits(NamedTuple):
    """The ``top_k`` nearest remembered keys of each query, best first."""

    ids: Tensor
    """Shape ``[H, Q, K]``, int64: position in reading order, -1 where fewer exist."""
    scores: Tensor
    """Shape ``[H, Q, K]``, float32: inner products, unscaled (no ``1/sqrt(D)``); -inf for -1."""

    def first(self, most: int) -> "Hits":
        """Keep so many of each query, at most."""
        if self.ids.shape[-1] <= most:
            return self
        return Hits(self.ids[..., :most], self.scores[..., :most])


class MemoryStore(ABC):
    """Keys and values of one memory layer: ``H`` heads that grow together.

    The public methods check and convert their input, number the keys, and emulate what a store
    cannot do itself. A store implements the inner methods, which get clean input:
    `_add`, `_search`, `_keys` and `_values`; where it can do better also `_attend`,
    `_search_biased`, `_forget` and `_copy`. Inner methods count keys from 0 in the order of
    adding, and never see -1.

    Searching is safe from several threads at a time; adding is for one thread.
    No gradient flows into or out of a store.

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
        if dtype not in DTYPES:
            raise DtypeError("dtype", expected=_names(DTYPES), actual=dtype)
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.dtype = dtype
        self.device = torch.device(device)
        self._offset = 0  # id of the first key ever added
        self._added = 0  # keys ever added
        self._forgotten = 0  # of these, forgotten
        self._unseen: Tensor | None = None  # on CUDA: finite checks whose answer was not awaited

    # What a store implements -----------------------------------------------------------------

    @abstractmethod
    def _add(self, keys: Tensor, values: Tensor) -> None:
        """Append ``[H, N, D]`` each, ``N >= 1``, in the store's dtype and device; copy them."""

    @abstractmethod
    def _search(self, queries: Tensor, top_k: int) -> Hits:
        """Find the best ``top_k <= keys ever added`` for queries ``[H, Q, D]``, ``Q >= 1``.

        Queries come in the caller's dtype on the store's device. Scores are inner products of
        the stored keys. A store that finds fewer fills up with id -1, score -inf; it is not asked
        again for more.
        """

    @abstractmethod
    def _keys(self, ids: Tensor) -> Tensor:
        """Look up keys: ids ``[H, Q, K]`` -> ``[H, Q, K, D]`` in the store's dtype."""

    @abstractmethod
    def _values(self, ids: Tensor) -> Tensor:
        """Look up values: ids ``[H, Q, K]`` -> ``[H, Q, K, D]`` in the store's dtype."""

    def _attend(self, queries: Tensor, top_k: int | None, scale: float) -> PartialAttention:
        """Attend with queries ``[H, Q, D]`` to a store that is not empty."""
        return self._attend_to_found(queries, top_k, scale)

    def _search_biased(self, queries: Tensor, top_k: int, bias: Bias) -> Hits:
        """Search by inner product plus what `bias` returns for inner ids (forgotten: -inf)."""
        ids, scores = self._search_live(queries, min(OVERFETCH * top_k, len(self)))
        ids = ids.to(self.device, torch.long)
        scores = scores.to(self.device) + bias(ids.clamp(min=self._forgotten))
        scores, best = scores.topk(top_k, dim=-1)
        return Hits(ids.gather(-1, best), scores)

    def _stream(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all live keys and values, ``[H, n, D]`` each, in blocks of bounded size."""
        length = max(1, WORKSPACE // (self.num_heads * self.head_dim))
        for start in range(self._forgotten, self._added, length):
            ids = torch.arange(start, min(start + length, self._added), device=self.device)
            ids = ids.expand(self.num_heads, 1, -1)
            yield self._keys(ids)[:, 0], self._values(ids)[:, 0]

    def _forget(self, count: int) -> None:
        """Drop the `count` oldest keys for good. The base class already hides them."""

    def _copy(self) -> "MemoryStore":
        """Build an independent store of the same keys. The base class reads and adds them."""
        twin = self._empty_twin()
        twin.start_at(self.first_id)
        for keys, values in self._stream():
            twin.add(keys, values)
        return twin

    def _tune(self, options: dict[str, Any]) -> None:
        """Change some of `search_options`; raise `OptionError` before anything is changed."""
        raise NotImplementedError("a store that names search_options implements _tune")

    def _resume(self, first_id: int, added: int, forgotten: int) -> None:
        """Count from where a directory that was reopened left off; for `__init__`.

        Its first key ever got the id `first_id`; `added` keys followed, of which the oldest
        `forgotten` are gone.
        """
        self._offset, self._added, self._forgotten = first_id, added, forgotten

    def _empty_twin(self) -> "MemoryStore":
        """Build an empty store with the same options; needed by the `_copy` of the base class."""
        return type(self)(
            num_heads=self.num_heads, head_dim=self.head_dim, dtype=self.dtype, device=self.device
        )

    # What a caller uses ----------------------------------------------------------------------

    def __len__(self) -> int:
        """Count the keys that can be found."""
        return self._added - self._forgotten

    @property
    def first_id(self) -> int:
        """Id of the oldest key that can be found (of the next one, if the store is empty)."""
        return self._offset + self._forgotten

    @property
    def next_id(self) -> int:
        """Id that the next key gets."""
        return self._offset + self._added

    def start_at(self, first_id: int) -> None:
        """Number keys from `first_id` on: for a store that replaces another.

        Raises
        ------
        OptionError
            If `first_id` is negative or no integer, or the store has been added to.
        """
        first_id = _whole("first_id", first_id, least=0)
        if self._added:
            raise OptionError(
                f"first_id must be set before the first add, got {first_id} after "
                f"{self._added} keys"
            )
        self._offset = first_id

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
        """
        for name, tensor in (("keys", keys), ("values", values)):
            self._check(name, tensor, "N")
        if keys.shape != values.shape:
            raise ShapeError("values", expected=f"{list(keys.shape)} as keys", actual=values.shape)
        if keys.shape[1] == 0:
            return
        self._raise_unseen()
        keys, values = (tensor.detach().to(self.device, self.dtype) for tensor in (keys, values))
        for name, tensor in (("keys", keys), ("values", values)):
            _require_finite(name, tensor)
        with torch.inference_mode(False):  # what is made in that mode could not be added to later
            self._add(keys, values)
        self._added += keys.shape[1]

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
            On CUDA, NaN or Inf in queries is reported by the next `add`, `flush` or `close`, so
            that no query waits for the device.
        """
        queries, device = self._clean_queries(queries), queries.device
        ids, scores = self._best_hits(queries, _whole("top_k", top_k, least=1), bias)
        if self._offset:
            ids = ids.where(ids < 0, ids + self._offset)
        if device != self.device:
            ids, scores = ids.to(device), scores.to(device)
        return Hits(ids, scores)

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
        return self._look_up(self._keys, ids)

    def values(self, ids: Tensor) -> Tensor:
        """Look up values by id; parameters and result as for `keys`."""
        return self._look_up(self._values, ids)

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
            Factor of the inner products, usually ``1 / sqrt(D)``.
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
        queries = self._clean_queries(queries)
        if top_k is not None:
            top_k = _whole("top_k", top_k, least=1)
        if len(self) == 0 or queries.shape[1] == 0:
            return PartialAttention(torch.zeros_like(given), _no_keys(given))
        if bias is None:
            out, lse = self._attend(queries, top_k, scale)
        else:
            out, lse = self._attend_to_found(queries, top_k, scale, bias)
        return PartialAttention(out.to(given.device, given.dtype), lse.to(given.device))

    @_in_own_precision
    def forget(self, count: int) -> None:
        """Drop the `count` oldest keys (all, if there are fewer); other ids do not change.

        Raises
        ------
        OptionError
            If `count` is negative, or no integer.
        """
        count = min(_whole("count", count, least=0), len(self))
        self._forget(count)
        self._forgotten += count

    def tune(self, **options: Any) -> None:
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
        if options:
            self._tune(options)

    def share_read(self, queries: Tensor, top_k: int) -> float | None:
        """Tell which share of the keys a search compares with each of these queries.

        For benchmarks. Parameters as for `search`.

        Returns
        -------
        float or None
            From 0 to 1, the mean; None if the store cannot tell.
        """
        return None

    @_in_own_precision
    def copy(self) -> "MemoryStore":
        """Build an independent store with the same keys, values and ids."""
        return self._copy()

    def __deepcopy__(self, memo: dict[int, object]) -> "MemoryStore":
        return self.copy()

    def flush(self) -> None:
        """Make everything added durable, where the store is persistent."""
        self._raise_unseen()

    def close(self) -> None:
        """Flush, and release what the store holds. It must not be used afterwards."""
        self.flush()

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
        wanted = min(top_k, len(self))
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

            ids, scores = self._search_biased(queries, wanted, live)
            ids = ids.where(scores > -torch.inf, -1)
        missing = top_k - ids.shape[-1]
        if missing:
            ids = pad(ids, (0, missing), value=-1)
            scores = pad(scores, (0, missing), value=-torch.inf)
        return Hits(ids.to(self.device, torch.long), scores.to(self.device, torch.float32))

    def _search_live(self, queries: Tensor, wanted: int) -> Hits:
        """Search, and hide what was forgotten."""
        search = self._search_remembered if self._forgotten else self._search
        return search(queries, wanted).first(wanted)

    def _search_remembered(self, queries: Tensor, wanted: int) -> Hits:
        """Search among keys of which some are forgotten, asking for more until enough are live."""
        asked = wanted
        while True:
            hits = self._search(queries, asked)
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
        top_k = min(top_k, len(self))
        rows = max(1, WORKSPACE // (self.num_heads * top_k * self.head_dim))
        parts = []
        for block in queries.split(rows, dim=1):
            hits = self._best_hits(block, top_k, bias)
            values = self._values(hits.ids.clamp(min=self._forgotten))
            parts.append(topk_attention(hits.scores, values, scale=scale, dtype=queries.dtype))
        return PartialAttention(
            torch.cat([part.out for part in parts], 1), torch.cat([part.lse for part in parts], 1)
        )

    def _attend_to_all(self, queries: Tensor, scale: float, bias: Bias | None) -> PartialAttention:
        # The first part sets the dtype of the merged: float32, or every block would round.
        merged = PartialAttention(torch.zeros_like(queries, dtype=torch.float32), _no_keys(queries))
        start = self.first_id
        for keys, values in self._stream():
            end = start + keys.shape[1]
            ids = torch.arange(start, end, device=self.device)
            mask = None if bias is None else bias(ids) * scale
            part = dense_attention(queries[None], keys[None], values[None], scale=scale, mask=mask)
            merged = merge([merged, PartialAttention(part.out[0], part.lse[0])])
            start = end
        return merged

    def _look_up(self, inner: Callable[[Tensor], Tensor], ids: Tensor) -> Tensor:
        if ids.dtype != torch.int64:
            raise DtypeError("ids", expected="int64", actual=ids.dtype)
        if ids.ndim != 3 or ids.shape[0] != self.num_heads:
            raise ShapeError("ids", expected=f"[H={self.num_heads}, Q, K]", actual=ids.shape)
        missing = ids == -1
        outside = ids[~missing & ((ids < self.first_id) | (ids >= self.next_id))]
        if outside.numel():
            raise IdError(int(outside[0]), first=self.first_id, end=self.next_id)
        if len(self) == 0 or ids.numel() == 0:
            return torch.zeros(*ids.shape, self.head_dim, dtype=self.dtype, device=ids.device)
        inner_ids = ids.where(~missing, self.first_id).to(self.device) - self._offset
        found = inner(inner_ids).to(ids.device)
        return found.masked_fill(missing[..., None], 0)

    def _clean_queries(self, queries: Tensor) -> Tensor:
        self._check("queries", queries, "Q")
        queries = queries.detach().to(self.device)
        if queries.device.type == "cpu":
            _require_finite("queries", queries)
        else:
            finite = queries.isfinite().all()
            self._unseen = finite if self._unseen is None else self._unseen & finite
        return queries

    def _raise_unseen(self) -> None:
        unseen, self._unseen = self._unseen, None
        if unseen is not None and not bool(unseen):
            raise NonFiniteError("queries of an earlier search")

    def _check(self, name: str, tensor: Tensor, axis: str) -> None:
        if tensor.dtype not in DTYPES:
            raise DtypeError(name, expected=_names(DTYPES), actual=tensor.dtype)
        if (
            tensor.ndim != 3
            or tensor.shape[0] != self.num_heads
            or tensor.shape[2] != self.head_dim
        ):
            expected = f"[H={self.num_heads}, {axis}, D={self.head_dim}]"
            raise ShapeError(name, expected=expected, actual=tensor.shape)


def _no_keys(queries: Tensor) -> Tensor:
    return torch.full(queries.shape[:2], -torch.inf, dtype=torch.float32, device=queries.device)


def _require_finite(name: str, tensor: Tensor) -> None:
    if tensor.numel() == 0:
        return
    # One pass without a temporary; NaN is both its minimum and its maximum.
    lowest, highest = tensor.aminmax()
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        bad = (~tensor.isfinite()).nonzero()[0].tolist()
        raise NonFiniteError(name, f"{bad} of {list(tensor.shape)}")


def _whole(name: str, number: int, *, least: int) -> int:
    """Take integers of all kinds, also numpy's; nothing else."""
    try:
        whole = least - 1 if isinstance(number, bool) else operator.index(number)
    except TypeError:
        whole = least - 1
    if whole < least:
        raise OptionError(f"{name} must be an integer of at least {least}, got {number!r}")
    return whole


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
