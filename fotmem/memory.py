"""The memory of one model: a store per memory layer, and the tokens they came from."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from fotmem.adapter import Adapter
from fotmem.cache import MemoryCache, MemoryLayer, WindowRead
from fotmem.errors import AttachError, LayerError, OptionError
from fotmem.explain import Attended, Trace, explain
from fotmem.forward import run_step
from fotmem.inputs import checked_tokens
from fotmem.interrupt import interrupts_deferred
from fotmem.progress import with_progress
from fotmem.store import MemoryStore
from fotmem.weighing import Weighing
from fotmem.windows import Step, Windowing

Makers = Mapping[int, Callable[[], MemoryStore]]
"""Per memory layer: makes an empty store for it."""

BULK = 2**23
"""Elements of the keys that go from one store to another at once (32 MiB of float32)."""


@dataclass(frozen=True)
class MemoryParts:
    """What `attach` found out about a model, and how it was asked to remember."""

    adapter: Adapter
    decoder: nn.Module
    plain_forward: Callable[..., Any]
    """The decoder's own forward."""
    cache_argument: str
    """What it calls its cache."""
    attentions: list[nn.Module]
    """The attention module of every layer."""
    makers: Callable[[str | Mapping[int, str], dict[str, Any]], Makers]
    """Takes names of stores and their options, and returns what makes them."""
    windowing: Windowing
    positionals: bool
    """False: memory layers use no positions at all (``mem_positionals`` of the released code)."""
    distance: int
    """At which position the local context begins; remembered keys stand at the first."""
    decay: float
    """How fast what was read longer ago counts for less."""
    temperature: float
    """What scores of remembered keys are divided by."""


class Seen(NamedTuple):
    """What a memory layer sees of the tokens that a window adds."""

    keys: Tensor
    """Shape ``[H, n, D]``, as a store gets them: before rotary embedding."""
    values: Tensor
    """Shape ``[H, n, D]``."""
    queries: Tensor
    """Shape ``[H, G, n, D]``, as a store is asked: with rotary embedding."""

    def last(self, count: int) -> Seen:
        """Return what it sees of the last tokens."""
        return Seen(*(each[..., -count:, :] for each in self))


class Memory:
    """Everything a model has read, searchable by its memory layers.

    Made by `fotmem.attach`; also a context manager that detaches at its end. Answering only
    looks at it and may run in several threads; `read` and `clear` are for one at a time
    (a second one waits), and an answer that overlaps with them sees the memory as it grows.
    """

    def __init__(
        self, parts: MemoryParts, makers: Makers, top_k: int | None, restore: Callable[[], None]
    ) -> None:
        self.adapter = parts.adapter
        self.decoder = parts.decoder
        self.cache_argument = parts.cache_argument
        self.windowing = parts.windowing
        self.positionals = parts.positionals
        self.distance = parts.distance
        self.decay = parts.decay
        self.temperature = parts.temperature
        self.num_layers = len(parts.attentions)
        self.last_trace: Trace | None = None
        self.top_k = top_k
        self._plain_forward = parts.plain_forward
        self._attentions = parts.attentions
        self._find_makers = parts.makers
        self._makers = makers
        self._restore: Callable[[], None] | None = restore
        self._writing = threading.RLock()
        self._text = _Text()
        self.stores = {layer: make() for layer, make in self._makers.items()}

    @property
    def layers(self) -> tuple[int, ...]:
        """Indices of the memory layers, ascending."""
        return tuple(self._makers)

    @property
    def top_k(self) -> int | None:
        """Hits per query; None: attention to all. Can be set at any time, nothing is read again."""
        return self._top_k

    @top_k.setter
    def top_k(self, top_k: int | None) -> None:
        if top_k is not None and (
            isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1
        ):
            raise OptionError(
                f"top_k must be an integer of at least 1, or None for all, got {top_k!r}"
            )
        self._top_k = top_k

    @property
    def weighing(self) -> Weighing:
        """How much remembered keys count for: `decay` and `temperature`, which can be set, too."""
        return Weighing(self.decay, self.temperature)

    @property
    def attached(self) -> bool:
        """Whether the model still looks at this memory."""
        return self._restore is not None

    @property
    def tokens(self) -> Tensor:
        """The remembered token ids, int64 ``[N]`` on CPU, in the order of reading."""
        return self._text.tokens

    def __len__(self) -> int:
        """Count the remembered tokens."""
        return len(self._text)

    def __bool__(self) -> bool:
        return True  # an empty memory is still a memory

    def __repr__(self) -> str:
        state = "" if self.attached else ", detached"
        return f"Memory({len(self)} tokens, layers={list(self.layers)}, top_k={self.top_k}{state})"

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self  # a copied cache still belongs to this memory

    def store(self, layer: int) -> MemoryStore:
        """Return the store of one memory layer.

        Raises
        ------
        LayerError
            If the layer has no memory.
        """
        self.check_layer(layer)
        return self.stores[layer]

    def use(self, store: str | Mapping[int, str], **options: Any) -> None:
        """Keep what was read, and what will be, in other stores; ids do not change.

        What a sequence has in its overflow stays in the stores where it is.

        Parameters
        ----------
        store : str or mapping of int to str
            Name of the store for all memory layers, or one for each.
        **options
            The stores' own; where layers have different stores, each gets those that it has.

        Raises
        ------
        UnknownStoreError, MissingPackageError, OptionError
            What was asked for is not to be had. Whatever goes wrong, the memory stays as it was.

        Examples
        --------
        ::

            memory.read(book)  # into exact stores
            memory.use("faiss-ivf", nprobe=64)
        """
        makers = self._find_makers(store, options)
        with self._writing:
            new: dict[int, MemoryStore] = {}
            done = False
            try:
                for layer, make in makers.items():
                    new[layer] = make()
                    _pour(self.stores[layer], new[layer], self.stores[layer].next_id)
                done = True
            finally:
                with interrupts_deferred():
                    unused = self.stores if done else new
                    if done:
                        self.stores, self._makers = new, makers
                    for each in unused.values():
                        each.close()

    def read(
        self, input_ids: Any, *, attend: bool = False, overlap: int = 0, progress: bool = False
    ) -> None:
        """Run a text through the model so that it ends up in memory.

        The text is cut into windows (the last one may be shorter); each sees itself and, with
        `attend`, what was in memory before it, and is then appended.

        Parameters
        ----------
        input_ids : Tensor or sequence of int
            Token ids ``[n]`` or ``[1, n]`` of one text, without padding.
        attend : bool
            Let memory layers look at memory while they read, as the released LongLLaMA code does.
            What is remembered is then distracted by what was remembered before, and reading slower.
        overlap : int
            Begin each window with the last `overlap` tokens before it, which are not remembered
            again; before the first window stands what was read last. Models give much attention to
            whatever stands first (attention sinks, Xiao et al. 2023, arXiv:2309.17453); without
            overlap the first token of every window is remembered as such a sink, and an untuned
            model finds little else. 0 reads as the released code does.
        progress : bool
            Show a progress bar on stderr.

        Raises
        ------
        ShapeError, InputError, OptionError
            Before anything is read.
        AttachError
            If the memory was detached.
        KeyboardInterrupt
            What was appended before Ctrl-C stays; the window in progress is dropped whole.
        """
        tokens = self._checked(input_ids, overlap)
        with self._writing, torch.no_grad():
            before = self.tokens[max(0, len(self) - overlap) :]
            context = torch.cat([before, tokens])
            for span in with_progress(
                self.windowing.spans(len(tokens), overlap, len(before)), progress
            ):
                stop = len(before) + span.stop
                begin = max(0, len(before) + span.start - overlap)
                seen = self._run(context[begin:stop], attend)
                pieces = {layer: (each.keys, each.values) for layer, each in seen.items()}
                self._append(tokens[span.start : span.stop], pieces)

    def observe(self, input_ids: Any, *, overlap: int = 0) -> Iterator[dict[int, Seen]]:
        """Run a text through the model as `read` does without `attend`, but remember nothing.

        Parameters
        ----------
        input_ids, overlap
            As in `read`; before the first window stands nothing.

        Yields
        ------
        dict of int to Seen
            For every window, what each memory layer sees of the tokens that `read` would append.

        Raises
        ------
        ShapeError, InputError, OptionError, AttachError
            As `read`.
        """
        tokens = self._checked(input_ids, overlap)
        for span in self.windowing.spans(len(tokens), overlap):
            window = tokens[max(0, span.start - overlap) : span.stop]
            with self._writing, torch.no_grad():
                seen = self._run(window, attend=False)
            yield {layer: each.last(len(span)) for layer, each in seen.items()}

    def replace(
        self, start: int, stop: int, input_ids: Any, *, attend: bool = False, overlap: int = 0
    ) -> None:
        """Read a text in place of the remembered tokens from `start` to before `stop`.

        What stood before and behind is not read again: it keeps its keys and values, and what
        stood behind is numbered anew. Without `attend`, windows know nothing of each other, and
        the memory becomes what reading the changed text would have made of it, but for where
        windows begin.

        Parameters
        ----------
        start, stop : int
            Indices into `tokens`.
        input_ids, attend, overlap
            As in `read`; without tokens, it is a gap that closes.

        Raises
        ------
        OptionError
            If the memory has no such tokens.
        ShapeError, InputError, OptionError, AttachError
            As `read`. Whatever goes wrong, the memory stays as it was.
        """
        if not 0 <= start <= stop <= len(self):
            raise OptionError(
                f"start and stop must be from 0 to the {len(self)} remembered tokens, in this "
                f"order, got {start} and {stop}"
            )
        with self._writing:
            stores, text, whole = self.stores, self._text, self.tokens
            self.stores = {layer: make() for layer, make in self._makers.items()}
            self._text = _Text()
            done = False
            try:
                self._recall(stores, whole, range(start))
                self.read(input_ids, attend=attend, overlap=overlap)
                self._recall(stores, whole, range(stop, len(whole)))
                done = True
            finally:
                with interrupts_deferred():
                    unused = stores if done else self.stores
                    if not done:
                        self.stores, self._text = stores, text
                    for store in unused.values():
                        store.close()

    @contextmanager
    def temporarily(self) -> Iterator[None]:
        """Forget at the end of the block what is read in it, and which stores are used in it.

        Ask about a book and one more page, then about the book and another page. The stores are
        copied (`MemoryStore.copy`), not read again.
        """
        with self._writing:
            stores, makers, text = self.stores, self._makers, self._text
            self.stores = {layer: store.copy() for layer, store in stores.items()}
            self._text = text.copy()
        try:
            yield
        finally:
            with self._writing, interrupts_deferred():
                copies, self.stores, self._text = self.stores, stores, text
                self._makers = makers
                self.last_trace = None
                for store in copies.values():
                    store.close()

    def clear(self) -> None:
        """Forget everything; the next token read is token 0 again."""
        with self._writing, interrupts_deferred():
            old = self.stores
            self.stores = {layer: make() for layer, make in self._makers.items()}
            self._text = _Text()
            self.last_trace = None
            for store in old.values():
                store.close()

    def explain(self, tokenizer: object = None, top: int = 10, *, row: int = 0) -> list[Attended]:
        """Tell which remembered tokens the last position of the last forward call attended to.

        Parameters
        ----------
        tokenizer : transformers tokenizer, optional
            To show tokens as text.
        top : int
            How many entries to return at most, over all memory layers.
        row : int
            Batch row of the last call.

        Returns
        -------
        list of Attended
            ``(layer, token_id, position, weight, text)``, largest weight first; empty if nothing
            was remembered or nothing was asked. With dense attention (``top_k=None``) only the 32
            best keys of each head are looked at.

        Raises
        ------
        OptionError
            If `top` is less than 1.
        LayerError
            If the last call had no such row.
        """
        if top < 1:
            raise OptionError(f"top must be at least 1, got {top}")
        trace = self.last_trace
        if trace is None:
            return []
        if not 0 <= row < len(trace.real):
            raise LayerError(f"the last call had {len(trace.real)} rows, there is no row {row}")
        return explain(self, trace, tokenizer, top, row)

    def detach(self) -> None:
        """Give the model its own forward functions back; what was read stays in this object.

        Detaching twice is fine.
        """
        restore, self._restore = self._restore, None
        if restore is not None:
            restore()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()

    def new_store(self, layer: int) -> MemoryStore:
        """Make an empty store as this layer's (for a row's overflow)."""
        return self._makers[layer]()

    def attention(self, layer: int) -> nn.Module:
        """Return the attention module of a layer."""
        return self._attentions[layer]

    def check_layer(self, layer: int) -> None:
        """Raise `LayerError` unless this is a memory layer."""
        if layer not in self._makers:
            raise LayerError(f"layer {layer} has no memory; memory layers are {list(self.layers)}")

    def _checked(self, input_ids: Any, overlap: int) -> Tensor:
        """Check that a text can be read; return its token ids."""
        if self._restore is None:
            raise AttachError("this memory was detached from its model; attach again to read")
        tokens = checked_tokens(input_ids, self.decoder.config.vocab_size)  # type: ignore[union-attr, arg-type]
        self.windowing.check_overlap(overlap)
        return tokens

    def _run(self, window: Tensor, attend: bool) -> dict[int, Seen]:
        """Run one window; return what every memory layer sees of it."""
        cache = MemoryCache(self, attend=attend, reading=True)
        step = Step(torch.arange(len(window))[None], is_window=True)
        inputs = window[None].to(_embedding_device(self.decoder))
        with suppress(WindowRead):
            run_step(self._plain_forward, cache, step, "input_ids", inputs)
        seen = {}
        for layer in self.layers:
            found = cache.layers[layer]
            assert isinstance(found, MemoryLayer)
            assert found.queries is not None
            keys, values = (each[0] for each in found.window())
            queries = found.queries[0].detach()  # [H * G, T, D]
            seen[layer] = Seen(keys, values, queries.unflatten(0, (len(keys), -1)))
        return seen

    def _append(self, window: Tensor, pieces: dict[int, tuple[Tensor, Tensor]]) -> None:
        """Append the tokens of one window to all stores, or to none.

        The pieces may begin with more tokens than these: the overlap is not remembered again.
        """
        length, touched = len(self), []
        with interrupts_deferred():
            try:
                for layer, (keys, values) in pieces.items():
                    touched.append(layer)
                    self.stores[layer].add(keys[:, -len(window) :], values[:, -len(window) :])
                self._text.append(window)
            except BaseException:
                # Also the store that failed: it may hold a part of the window.
                for layer in touched:
                    self.stores[layer] = self._shortened(layer, length)
                raise
            self.last_trace = None  # its shares are of the memory as it was

    def _recall(self, stores: Mapping[int, MemoryStore], tokens: Tensor, span: range) -> None:
        """Append tokens with the keys and values that stores have of them."""
        for ids in _blocks(span, next(iter(stores.values()))):
            pieces = {layer: looked_up(store, ids) for layer, store in stores.items()}
            self._append(tokens[ids], pieces)

    def _shortened(self, layer: int, length: int) -> MemoryStore:
        """Rebuild a store without what was added beyond the first `length` tokens."""
        new = self.new_store(layer)
        _pour(self.stores[layer], new, length)
        return new


class _Text:
    """Token ids in the order of reading; counting them takes no longer the more there are."""

    def __init__(self) -> None:
        self._pieces: list[Tensor] = []
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def tokens(self) -> Tensor:
        """All of them, int64 ``[N]``."""
        return torch.cat([torch.zeros(0, dtype=torch.long), *self._pieces])

    def append(self, tokens: Tensor) -> None:
        self._pieces.append(tokens)
        self._length += len(tokens)

    def copy(self) -> Self:
        """Return the same text, which grows on its own."""
        new = type(self)()
        new._pieces, new._length = list(self._pieces), self._length
        return new


def _pour(old: MemoryStore, new: MemoryStore, stop: int) -> None:
    """Add the keys and values of one store before id `stop` to another, under the same ids."""
    new.start_at(old.first_id)
    for ids in _blocks(range(old.first_id, stop), old):
        new.add(*looked_up(old, ids))


def _blocks(span: range, store: MemoryStore) -> Iterator[Tensor]:
    """Cut ids into blocks that go from store to store at once.

    They are large: an index that gets many keys at once need not be built anew as they come.
    """
    length = max(1, BULK // (store.num_heads * store.head_dim))
    for start in range(span.start, span.stop, length):
        yield torch.arange(start, min(start + length, span.stop))


def looked_up(store: MemoryStore, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Look up keys and values ``[H, n, D]`` of all heads, by ids ``[n]``."""
    ids = ids.expand(store.num_heads, 1, -1)
    return store.keys(ids)[:, 0], store.values(ids)[:, 0]


def _embedding_device(decoder: nn.Module) -> torch.device:
    embeddings = decoder.get_input_embeddings()  # type: ignore[operator]
    device: torch.device = embeddings.weight.device
    return torch.device("cpu") if device.type == "meta" else device
