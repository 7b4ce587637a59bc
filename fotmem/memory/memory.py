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
from fotmem.arguments import (
    checked_boolean,
    checked_decay,
    checked_distance,
    checked_integer,
    checked_temperature,
    checked_top_k,
)
from fotmem.errors import AttachError, LayerError, OptionError, UnsupportedError
from fotmem.interrupts import interrupts_deferred
from fotmem.memory.cache import MemoryCache, MemoryLayer, WindowRead
from fotmem.memory.contents import Contents, Makers
from fotmem.memory.decay import Weighing
from fotmem.memory.explain import Attended, Trace, explain
from fotmem.memory.forward import run_step
from fotmem.memory.inputs import checked_tokens
from fotmem.memory.progress import with_progress
from fotmem.memory.windows import Step, Windowing
from fotmem.stores.store import MemoryStore


@dataclass(frozen=True)
class MemoryParts:
    """What `attach` found out about a model, and how it was asked to remember."""

    adapters: Mapping[int, Adapter]
    """Of every memory layer."""
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
    looks at it and may run in several threads; `read`, `replace`, `use` and `clear` are for one
    thread at a time (another one waits, also for the end of its `temporarily`). Each call of the
    model answers from one memory: as it is, or grows, when the call begins.

    Attributes
    ----------
    contents : Contents
        Stores and tokens.
    unproven : set of int
        Memory layers whose adapter has not been compared with the layer yet.
    """

    def __init__(
        self, parts: MemoryParts, makers: Makers, top_k: int | None, restore: Callable[[], None]
    ) -> None:
        self.adapters = parts.adapters
        self.decoder = parts.decoder
        self.cache_argument = parts.cache_argument
        self.windowing = parts.windowing
        self.positionals = parts.positionals
        self.distance = parts.distance
        self.decay = parts.decay
        self.temperature = parts.temperature
        self.num_layers = len(parts.attentions)
        self.unproven = set(parts.adapters)
        self.last_trace: Trace | None = None
        self.top_k = top_k
        self._plain_forward = parts.plain_forward
        self._attentions = parts.attentions
        self._find_makers = parts.makers
        self._restore: Callable[[], None] | None = restore
        self._writing = threading.RLock()
        self._before: list[Contents] = []  # of temporary blocks, the outermost first
        self.contents = Contents.empty(makers)

    @property
    def layers(self) -> tuple[int, ...]:
        """Indices of the memory layers, ascending."""
        return tuple(self.contents.makers)

    @property
    def top_k(self) -> int | None:
        """Hits per query; None: attention to all. Can be set at any time, nothing is read again."""
        return self._top_k

    @top_k.setter
    def top_k(self, top_k: int | None) -> None:
        self._top_k = checked_top_k(top_k)

    @property
    def distance(self) -> int:
        """How many positions before the local context memory stands, as in `fotmem.attach`.

        Can be set at any time; sequences that have begun keep theirs.
        """
        return self._distance

    @distance.setter
    def distance(self, distance: int) -> None:
        longest = self.decoder.config.max_position_embeddings  # type: ignore[union-attr]
        self._distance = checked_distance(distance, self.windowing.window, longest)  # type: ignore[arg-type]

    @property
    def decay(self) -> float:
        """How fast what was read longer ago counts for less. Can be set at any time."""
        return self._decay

    @decay.setter
    def decay(self, decay: float) -> None:
        self._decay = checked_decay(decay)

    @property
    def temperature(self) -> float:
        """What scores of remembered keys are divided by. Can be set at any time."""
        return self._temperature

    @temperature.setter
    def temperature(self, temperature: float) -> None:
        self._temperature = checked_temperature(temperature)

    @property
    def weighing(self) -> Weighing:
        """How much remembered keys count for: `decay` and `temperature`."""
        return Weighing(self.decay, self.temperature)

    @property
    def attached(self) -> bool:
        """Whether the model still looks at this memory."""
        return self._restore is not None

    @property
    def tokens(self) -> Tensor:
        """The remembered token ids, int64 ``[N]`` on CPU, in the order of reading."""
        return self.contents.tokens

    @property
    def stores(self) -> dict[int, MemoryStore]:
        """The store of every memory layer."""
        return self.contents.stores

    def __len__(self) -> int:
        """Count the remembered tokens."""
        return len(self.contents)

    def __bool__(self) -> bool:
        return True  # an empty memory is still a memory

    def __repr__(self) -> str:
        state = "" if self.attached else ", detached"
        return f"Memory({len(self)} tokens, layers={list(self.layers)}, top_k={self.top_k}{state})"

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self  # a copied cache still belongs to this memory

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise UnsupportedError(
            "pickle (and torch.save) of a Memory, or of a cache that looks at it,",
            "save the tokens, and read or run them again where they are loaded",
        )

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
            moved = self.contents.moved(makers)
            with interrupts_deferred():
                self.contents = moved

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
        attend, progress = checked_boolean("attend", attend), checked_boolean("progress", progress)
        overlap = self.windowing.checked_overlap(overlap)
        with self._writing:
            try:
                self._read(self.contents, self._checked(input_ids), attend, overlap, progress)
            finally:
                self.last_trace = None  # its shares are of the memory as it was

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
        overlap = self.windowing.checked_overlap(overlap)
        tokens = self._checked(input_ids)
        for span in self.windowing.spans(len(tokens), overlap):
            window = tokens[max(0, span.start - overlap) : span.stop]
            seen = self._run(window, None)
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
        start, stop = checked_integer("start", start), checked_integer("stop", stop)
        attend = checked_boolean("attend", attend)
        overlap = self.windowing.checked_overlap(overlap)
        with self._writing:
            tokens, length = self._checked(input_ids), len(self)
            if not 0 <= start <= stop <= length:
                raise OptionError(
                    f"start and stop must be from 0 to the {length} remembered tokens, in this "
                    f"order, got {start} and {stop}"
                )
            new = Contents.empty(self.contents.makers)
            new.recall(self.contents, range(start))
            self._read(new, tokens, attend, overlap)
            new.recall(self.contents, range(stop, length))
            self._put(new)

    @contextmanager
    def temporarily(self) -> Iterator[None]:
        """Forget at the end of the block what is read in it, and which stores are used in it.

        Ask about a book and one more page, then about the book and another page. The stores are
        copied (`MemoryStore.copy`), not read again.

        The block belongs to the thread that it is in. Another thread that reads, clears, replaces
        or changes stores waits for its end, so that nothing of it is lost: do not wait for such a
        thread in the block. Calls of the model in other threads that begin meanwhile answer from
        the memory as the block has made it; those that began before, or outlast it, go on with
        what they began with. Blocks of one thread may stand in one another.

        Raises
        ------
        AttachError
            A block around it ended first, at the end of the block.
        """
        with self._writing:
            before = self.contents
            try:
                try:
                    self._before.append(before)
                    self.contents = before.copy()
                    yield
                    if before not in self._before:
                        raise AttachError(
                            "what is read temporarily was forgotten with a block around it, which "
                            "ended first; end blocks in the reverse order of their beginnings"
                        )
                finally:
                    self._go_back(before)
            finally:
                self._go_back(before)  # whenever Ctrl-C comes

    def clear(self) -> None:
        """Forget everything; the next token read is token 0 again."""
        with self._writing:
            self._put(Contents.empty(self.contents.makers))

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
            If `top` is less than 1, or one of both is no integer.
        LayerError
            If the last call had no such row.
        """
        top, row = checked_integer("top", top), checked_integer("row", row)
        if tokenizer is not None and not hasattr(tokenizer, "decode"):
            raise OptionError(f"tokenizer must be one of transformers, or None, got {tokenizer!r}")
        if top < 1:
            raise OptionError(f"top must be at least 1, got {top}")
        trace = self.last_trace
        if trace is None:
            return []
        if not 0 <= row < len(trace.real):
            raise LayerError(
                f"the last call had {len(trace.real)} rows, there is no row {row}; "
                f"pass one from 0 to {len(trace.real) - 1}"
            )
        return explain(self, trace, tokenizer, top, row)

    def detach(self) -> None:
        """Give the model its own forward functions back; what was read stays in this object.

        Detaching twice is fine.
        """
        with interrupts_deferred():
            if self._restore is not None:
                self._restore()
            self._restore = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.detach()
        finally:
            self.detach()  # whenever Ctrl-C comes

    def new_store(self, layer: int) -> MemoryStore:
        """Make an empty store as this layer's (for a row's overflow)."""
        return self.contents.makers[layer]()

    def geometry(self, layer: int) -> tuple[int, int, float]:
        """Return a memory layer's key/value heads, head dimension and factor of the scores."""
        return self.adapters[layer].geometry(self.attention(layer))

    def attention(self, layer: int) -> nn.Module:
        """Return the attention module of a layer."""
        return self._attentions[layer]

    def check_layer(self, layer: int) -> None:
        """Raise `LayerError` unless this is a memory layer."""
        if isinstance(layer, bool) or layer not in self.layers:
            raise LayerError(
                f"layer {layer!r} has no memory; memory layers are {list(self.layers)}: pass one "
                "of these, or attach a memory with other layers"
            )

    def _checked(self, input_ids: Any) -> Tensor:
        """Check that a text can be read; return its token ids."""
        if self._restore is None:
            raise AttachError("this memory was detached from its model; attach again to read")
        return checked_tokens(input_ids, self.decoder.config.vocab_size)  # type: ignore[union-attr, arg-type]

    def _put(self, contents: Contents) -> None:
        """Remember something else; this also closes what nobody else uses."""
        with interrupts_deferred():
            self.contents, self.last_trace = contents, None

    def _go_back(self, before: Contents) -> None:
        """Remember what was remembered before a temporary block, and end those in it."""
        with interrupts_deferred():
            if before in self._before:
                del self._before[self._before.index(before) :]
                self._put(before)

    def _read(
        self, contents: Contents, tokens: Tensor, attend: bool, overlap: int, progress: bool = False
    ) -> None:
        """Append what memory layers see of a text, window by window."""
        before = contents.tokens[max(0, len(contents) - overlap) :]
        context = torch.cat([before, tokens])
        spans = self.windowing.spans(len(tokens), overlap, len(before))
        for span in with_progress(spans, progress):
            stop = len(before) + span.stop
            begin = max(0, len(before) + span.start - overlap)
            seen = self._run(context[begin:stop], contents if attend else None)
            pieces = {layer: (each.keys, each.values) for layer, each in seen.items()}
            contents.append(tokens[span.start : span.stop], pieces)

    @torch.no_grad()
    def _run(self, window: Tensor, contents: Contents | None) -> dict[int, Seen]:
        """Run one window that looks at `contents`; return what every memory layer sees of it."""
        cache = MemoryCache(self, reading=True)
        cache.contents = contents
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


def _embedding_device(decoder: nn.Module) -> torch.device:
    embeddings = decoder.get_input_embeddings()  # type: ignore[operator]
    device: torch.device = embeddings.weight.device
    return torch.device("cpu") if device.type == "meta" else device
