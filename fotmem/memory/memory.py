"""The memory of one model, as its user sees it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from torch import Tensor

from fotmem.arguments import (
    PASSAGE_TOKENS,
    PASSAGES,
    checked_boolean,
    checked_decay,
    checked_integer,
)
from fotmem.directory.facts import ReadingFacts
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.errors import AttachError, OptionError, StorageError
from fotmem.interrupts import interrupts_deferred
from fotmem.memory import reading
from fotmem.memory.attached import AttachedModel
from fotmem.memory.contents import Contents, Makers
from fotmem.memory.explain import AttendedToken, explain, traced
from fotmem.memory.kept_indexes import keep_indexes
from fotmem.memory.only import only
from fotmem.memory.options import MemoryOptions, check_decay_layers
from fotmem.memory.reading import Projections, checked_text
from fotmem.memory.retrieval import RereadPrompt, RetrievedPassage, reread, retrieve
from fotmem.memory.saving import refreshed, remove, save
from fotmem.memory.stats import MemoryStats, stats
from fotmem.memory.text import MemoryDocument
from fotmem.memory.text_to_read import TokenRows
from fotmem.memory.windows import checked_overlap
from fotmem.stores.store import MemoryStore


class Memory:
    """Everything a model has read, searchable by its memory layers.

    `fotmem.attach` returns it. As a context manager it detaches at the end of the block.

    Answering only looks at a memory and may run in several threads. `read`, `replace`, `use` and
    `clear` are for one thread at a time: a second thread waits, also for the end of another
    thread's `temporarily`. Each call of the model answers from the memory as it was when the call
    began.

    Attributes
    ----------
    attached_model : AttachedModel
        What the memory layers look at: the model's parts, the options, the stores and tokens.
    """

    attached_model: AttachedModel

    def __init__(self) -> None:
        self._writing = threading.RLock()
        self._before: list[Contents] = []  # of temporary blocks, the outermost first

    def connect(
        self,
        attached_model: AttachedModel,
        find_makers: Callable[[str | Mapping[int, str], dict[str, Any]], Makers],
        restore: Callable[[], None],
    ) -> None:
        """Belong to a model from now on; `attach` calls this.

        Parameters
        ----------
        attached_model : AttachedModel
        find_makers : callable
            Makes what makes stores, by their names and options.
        restore : callable
            Gives the model its own forward functions back.
        """
        self.attached_model = attached_model
        self._find_makers, self._restore = find_makers, restore

    @property
    def layers(self) -> tuple[int, ...]:
        """Indices of the memory layers, ascending."""
        return self.attached_model.layers

    @property
    def options(self) -> MemoryOptions:
        """How the memory layers look at memory: window, top k, distance and the rest."""
        return self.attached_model.options

    @property
    def top_k(self) -> int | None:
        """Hits per query; None: attention to all. Can be set at any time, nothing is read again."""
        return self.options.top_k

    @top_k.setter
    def top_k(self, top_k: int | None) -> None:
        self._change(top_k=top_k)

    @property
    def distance(self) -> int:
        """How many positions before each token memory stands, as in `fotmem.attach`.

        Can be set at any time, for all memories of the model by its default one.
        """
        return self.options.distance

    @distance.setter
    def distance(self, distance: int) -> None:
        self._change_of_all("distance", distance)

    @property
    def recent(self) -> int:
        """How many of the last remembered tokens keep their positions, as in `fotmem.attach`.

        Can be set at any time, for all memories of the model by its default one.
        """
        return self.options.recent

    @recent.setter
    def recent(self, recent: int) -> None:
        self._change_of_all("recent", recent)

    @property
    def decay(self) -> float | Mapping[int, float]:
        """How fast older keys lose weight, as in `fotmem.attach`. Can be set at any time."""
        return self.options.decay

    @decay.setter
    def decay(self, decay: float | Mapping[int, float]) -> None:
        check_decay_layers(checked_decay(decay), self.layers)
        self._change(decay=decay)

    @property
    def temperature(self) -> float:
        """Divisor of the scores of remembered keys. Can be set at any time."""
        return self.options.temperature

    @temperature.setter
    def temperature(self, temperature: float) -> None:
        self._change(temperature=temperature)

    @property
    def attached(self) -> bool:
        """Whether the model still looks at this memory."""
        return self.attached_model.is_attached

    @property
    def tokens(self) -> Tensor:
        """The token ids that were read, int64 ``[N]`` on CPU, in the order of reading.

        The index of a token is its id in the stores. Tokens of removed documents stay in place.
        """
        return self._contents.tokens

    def token_rows(self, start: int, stop: int) -> TokenRows:
        """Return tokens by id, and the characters of its document that each covers.

        Returns
        -------
        TokenRows
            ``(ids, starts, stops)``, int64 ``[n]`` each; a character that is not known is -1.
        """
        return self._contents.text.rows(start, stop)

    @property
    def stores(self) -> dict[int, MemoryStore]:
        """The store of every memory layer."""
        return self._contents.stores

    def __len__(self) -> int:
        """Count the remembered tokens, without those of removed documents."""
        return self._contents.text.count_visible()

    def __bool__(self) -> bool:
        return True  # an empty memory is still a memory

    def __repr__(self) -> str:
        state = "" if self.attached else ", detached"
        return f"Memory({len(self)} tokens, layers={list(self.layers)}, top_k={self.top_k}{state})"

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self

    def __reduce__(self) -> str | tuple[Any, ...]:
        return self.attached_model.__reduce__()

    def store(self, layer: int) -> MemoryStore:
        """Return the store of one memory layer.

        Raises
        ------
        LayerError
            The layer has no memory.
        """
        self.attached_model.check_layer(layer)
        return self.stores[layer]

    def use(self, store: str | Mapping[int, str], **options: Any) -> None:
        """Move what was read to other stores, which also take what will be read; ids stay.

        The overflow of sequences stays in the stores where it is.

        Parameters
        ----------
        store : str or mapping of int to str
            Name of the store for all memory layers, or one for each.
        **options
            The stores' own; where layers have different stores, each gets those that it knows.

        Raises
        ------
        UnknownStoreError, MissingPackageError, OptionError
            There is no such store or option. The memory is unchanged, whatever fails.

        Examples
        --------
        ::

            memory.read(book)  # into exact stores
            memory.use("faiss-ivf", nprobe=64)
        """
        makers = self._find_makers(store, options)
        with self._writing:
            moved = self._contents.moved(makers)
            with interrupts_deferred():
                self.attached_model.contents = moved

    def read(
        self,
        input_ids: Any,
        *,
        document: str | None = None,
        attend: bool = False,
        overlap: int = 0,
        progress: bool = False,
    ) -> None:
        """Run a text through the model so that it ends up in memory.

        The text is cut into windows (the last one may be shorter). Each window sees itself and,
        with `attend`, what was in memory before it; then it is appended to memory.

        Parameters
        ----------
        input_ids : Tensor or sequence of int
            Token ids ``[n]`` or ``[1, n]`` of one text, without padding; or a
            `fotmem.documents.TokenizedDocument`, whose characters are kept, too.
        document : str, optional
            Name of the text. What was read under this name before is removed once all of this text
            is read, unless it is the same text: then nothing is read, or only the rest if its
            reading was stopped.
        attend : bool
            Let memory layers look at memory while they read, as the released LongLLaMA code does.
            What was remembered before then distracts from what is read, and reading is slower.
        overlap : int
            Begin each window with the last `overlap` tokens before it, which are not remembered
            again; the first window begins with what was read last. Models give much attention to
            whatever stands first (attention sinks, Xiao et al. 2023, arXiv:2309.17453). Without
            overlap the first token of every window is remembered as such a sink, and an untuned
            model finds little else. 0 reads as the released code does.
        progress : bool
            Show a progress bar on stderr.

        Raises
        ------
        ShapeError, InputError, OptionError
            Before anything is read.
        AttachError
            The memory was detached.
        KeyboardInterrupt
            Windows that were appended before Ctrl-C stay; the window in progress is dropped whole.
        """
        attend, progress = checked_boolean("attend", attend), checked_boolean("progress", progress)
        overlap = checked_overlap(overlap, self.options.window)
        with self._writing:
            attached = self.attached_model
            text, how = checked_text(attached, input_ids, document), (attend, overlap, progress)
            reading.read(attached, attached.contents, text, *how)

    def observe(self, input_ids: Any, *, overlap: int = 0) -> Iterator[dict[int, Projections]]:
        """Run a text through the model as `read` does without `attend`, but remember nothing.

        Parameters
        ----------
        input_ids, overlap
            As in `read`; nothing stands before the first window.

        Yields
        ------
        dict of int to Projections
            For every window, the keys, values and queries of the tokens that `read` would append,
            by memory layer.

        Raises
        ------
        ShapeError, InputError, OptionError, AttachError
            As `read`.
        """
        overlap = checked_overlap(overlap, self.options.window)
        tokens = checked_text(self.attached_model, input_ids).ids
        yield from reading.observe(self.attached_model, tokens, overlap)

    def replace(
        self, start: int, stop: int, input_ids: Any, *, attend: bool = False, overlap: int = 0
    ) -> None:
        """Read a text in place of the remembered tokens from `start` to before `stop`.

        Tokens before and after these are not read again: they keep their keys and values. Those
        after get new ids. A document that is changed in this way stays one, without its name.
        Without `attend`, windows do not see each other, and the memory becomes the one that reading
        the changed text would have made, except for where windows begin.

        Parameters
        ----------
        start, stop : int
            Indices into `tokens`.
        input_ids, attend, overlap
            As in `read`; an empty text removes the tokens.

        Raises
        ------
        OptionError
            The memory has no such tokens.
        ShapeError, InputError, OptionError, AttachError
            As `read`. The memory is unchanged, whatever fails.
        """
        start, stop = checked_integer("start", start), checked_integer("stop", stop)
        attend = checked_boolean("attend", attend)
        overlap = checked_overlap(overlap, self.options.window)
        with self._writing:
            text, length = checked_text(self.attached_model, input_ids), len(self.tokens)
            if not 0 <= start <= stop <= length:
                raise OptionError(
                    f"start and stop must be from 0 to the {length} remembered tokens, in this "
                    f"order, got {start} and {stop}"
                )
            self._require_unkept("replace")
            new = Contents.empty(self._contents.makers)
            new.recall(self._contents, range(start))
            reading.read(self.attached_model, new, text, attend, overlap)
            new.recall(self._contents, range(stop, length))
            cut = self._contents.text.cut_by(start, stop)
            if cut is not None:
                new.text.join(cut.first, cut.stop + len(new.text) - length)
            self._put(new)

    @contextmanager
    def temporarily(self) -> Iterator[None]:
        """Forget at the end of the block what is read in it, and which stores are used in it.

        Ask about a book and one more page, then about the book and another page. The stores are
        copied (`MemoryStore.copy`), not read again.

        The block belongs to its thread. Another thread that reads, clears, replaces or changes
        stores waits for the end of the block, so that its change is not lost: do not wait for such
        a thread inside the block. Calls of the model in other threads that begin meanwhile answer
        from the memory that the block has made. Calls that began before the block, or outlast it,
        go on with what they began with. Blocks of one thread may be nested.

        Raises
        ------
        AttachError
            At the end of the block: a block around it ended first.
        """
        with self._writing:
            before = self._contents
            try:
                try:
                    self._before.append(before)
                    self.attached_model.contents = before.copy()
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
            self._require_unkept("clear")
            self._put(Contents.empty(self._contents.makers))

    def explain(
        self, tokenizer: object = None, top: int = 10, *, row: int = 0, cache: object = None
    ) -> list[AttendedToken]:
        """Return the tokens of this memory that the last position of a call attended to.

        That is the last call of the model in this thread or asyncio task; a task that runs it by
        ``asyncio.to_thread`` does so inside `using`. A call of elsewhere is explained by its cache.

        Parameters
        ----------
        tokenizer : transformers tokenizer, optional
            To show tokens as text.
        top : int
            How many entries to return at most, over all memory layers.
        row : int
            Batch row of the call.
        cache : MemoryCache, optional
            What a call of the model returned, ``model(...).cache``, to explain the last call with
            it. Before transformers 5.24 the attribute was called ``past_key_values``.

        Returns
        -------
        list of AttendedToken
            ``(layer, token_id, position, weight, text)``, largest weight first; empty if nothing
            was remembered or nothing was asked, or a memory that was looked at has changed since.
            With dense attention (``top_k=None``) only the 32 best keys of each head are looked at.

        Raises
        ------
        OptionError
            `top` is less than 1, or `top` or `row` is not an integer, or `cache` something else.
        AttachError
            The cache is of another model.
        LayerError
            The call had no such row.
        """
        trace = traced(self.attached_model, cache)
        return explain(self.attached_model, trace, tokenizer, top, row)

    def retrieve(
        self,
        input_ids: Any,
        *,
        passages: int = PASSAGES,
        tokens: int = PASSAGE_TOKENS,
        asking: int | None = None,
    ) -> list[RetrievedPassage]:
        """Return the passages of this memory that a prompt attends to most.

        The model runs over the prompt once, and looks at this memory. Squares of the attention that
        the prompt's tokens give in each head that ranks passages are added up, except for attention
        sinks; that ranks them as well as a search engine does (Chen et al. 2024, arXiv:2410.02642).
        The best passage is taken out of the softmax of each query before the next one is looked
        for: so another part of an answer does not stand in the shadow of the first. What is asked
        for may be of any age: the memory is looked at without `recent` tokens and `decay`.

        Parameters
        ----------
        input_ids : Tensor or sequence of int
            Token ids ``[n]`` or ``[1, n]`` of the prompt, without padding. Of a prompt that is
            longer than the window, its end counts.
        passages : int
            How many passages to return at most. One with less than three tenths of the first one's
            sum of squares is left out: it would distract.
        tokens : int
            How long each is, at most: it ends where its document ends, or where a better one
            begins.
        asking : int, optional
            How many tokens at the end of the prompt ask: the attention of others, such as text
            before a question, does not count. Default: all.

        Returns
        -------
        list of RetrievedPassage
            ``(start, stop, weight)``, in the order in which they are taken; none has a token twice.
            Empty if nothing was remembered.

        Raises
        ------
        ShapeError, InputError, OptionError
            An argument is something else.
        AttachError
            The memory was detached.
        """
        return retrieve(self, input_ids, passages, tokens, asking)

    def reread(
        self,
        input_ids: Any,
        *,
        passages: int = PASSAGES,
        tokens: int = PASSAGE_TOKENS,
        asking: int | None = None,
        prefix: int = 0,
        max_new_tokens: int | None = None,
    ) -> RereadPrompt:
        """Return a prompt with the passages that it attends to most before it.

        Memory layers find a passage; in the window, all layers read it. Where the window has no
        room for them, passages are shorter; if they would have less than 32 tokens (or an eighth of
        the window, if that is less), there are fewer. The room of weak passages, which are left
        out, goes to the others.

        Parameters
        ----------
        input_ids, passages, tokens, asking
            As for `retrieve`.
        prefix : int
            How many tokens of the prompt stay before the passages, such as the system message of
            a chat.
        max_new_tokens : int, optional
            Room in the window to leave for an answer. Default: an eighth of the window.

        Returns
        -------
        RereadPrompt
            ``(input_ids, passages)``: the prefix, passages in the order of reading, and the rest of
            the prompt, int64 ``[1, m + n]``; and what `retrieve` returns.

        Raises
        ------
        ShapeError, InputError, OptionError, AttachError
            As `retrieve`.

        Examples
        --------
        ::

            memory.read(book)
            prompt = memory.reread(question)
            with fotmem.using():  # the window is enough
                model.generate(prompt.input_ids)
        """
        return reread(
            self,
            input_ids,
            passages=passages,
            tokens=tokens,
            asking=asking,
            prefix=prefix,
            max_new_tokens=max_new_tokens,
        )

    def detach(self) -> None:
        """Give the model its own forward functions back; what was read stays in this object.

        Detaching twice is fine.
        """
        with interrupts_deferred():
            if self.attached:
                self._restore()
            self.attached_model.is_attached = False

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

    def stats(self) -> MemoryStats:
        """Return what the memory holds and takes, and what was searched in it."""
        attached = self.attached_model
        return stats(attached.contents, attached.counter, attached.overflow)

    # In a directory --------------------------------------------------------------------------

    @property
    def documents(self) -> list[MemoryDocument]:
        """The documents that were read and not removed, in the order of reading."""
        entries = self._contents.text.documents
        return [MemoryDocument.of(entry) for entry in entries if not entry.is_removed]

    def remove(self, document: str) -> None:
        """Hide a document from all searches, at once; other tokens keep their ids.

        In a directory this is committed before the method returns. The time that it takes does not
        depend on how much the memory holds.

        Raises
        ------
        OptionError
            There is no such document.
        StorageError
            The directory cannot be written to.
        """
        with self._writing:
            remove(self._contents, document)

    @contextmanager
    def only(self, documents: Sequence[str]) -> Iterator[None]:
        """Let calls of the model in this block look at some documents only.

        The block belongs to its thread, or to its asyncio task. Blocks may be nested; the inner one
        sees what is in both.

        Raises
        ------
        OptionError
            There is no such document.

        Examples
        --------
        ::

            with memory.only(["a.txt", "b.txt"]):
                model.generate(...)
        """
        if isinstance(documents, str):
            documents = [documents]
        with only(self.attached_model, documents):
            yield

    @property
    def directory(self) -> str | None:
        """Where the memory is kept; None: it ends with the process."""
        kept = self._contents.directory
        return None if kept is None else kept.name

    @property
    def facts(self) -> ReadingFacts:
        """What the directory says about the model that filled it.

        Raises
        ------
        StorageError
            The memory is kept in no directory.
        """
        return self._kept_directory().manifest.facts

    def save(
        self,
        directory: Path | str,
        *,
        model: str = "",
        tokenizer: object = None,
        quantization: Literal["int8", "int4"] | None = None,
    ) -> None:
        """Write the memory to a directory, and keep it there from now on.

        What is read later is committed there, every 8,192 tokens and at the end of `read`. A memory
        that is kept in a directory already stays there, and the other directory gets a copy.

        Parameters
        ----------
        directory : path
            Made if missing; otherwise it must be empty, or be the memory's own.
        model : str
            Name by which ``fotmem ask`` loads the model.
        tokenizer : transformers tokenizer, optional
            A checksum of it is kept, so that another one is refused.
        quantization : {"int8", "int4"}, optional
            Keep keys and values in 8 or 4 bits; see "Keep a memory" for what they lose. Each memory
            of the directory has this loss, this one included. By default nothing is lost.

        Raises
        ------
        OptionError
            There is no such quantization, or the memory's own directory has another one.
        StorageError
            The directory cannot be written to, or holds something else. Nothing of ours is left.
        AttachError
            Inside a `temporarily` block, whose contents do not last.
        """
        with self._writing:
            self._contents.require_whole()
            if self._before:
                raise AttachError("end the block of temporarily() first, then save the memory")
            how: Any = {"model": model, "tokenizer": tokenizer, "quantization": quantization}
            self._put(save(self.attached_model, directory, **how))

    def refresh(self) -> bool:
        """Take over what another process has committed to the directory since it was opened.

        Returns
        -------
        bool
            Whether there was anything new.

        Raises
        ------
        StorageError
            The memory is kept in no directory, or the directory cannot be read.
        """
        with self._writing:
            newer = refreshed(self._contents, self._kept_directory())
            if newer is not None:
                self._put(newer)
            return newer is not None

    def close(self) -> None:
        """Detach, and let another process write to the directory. Closing twice is fine."""
        self.detach()
        kept = self._contents.directory
        if kept is not None:
            keep_indexes(self._contents.stores, kept)
            kept.close()

    def _kept_directory(self) -> MemoryDirectory:
        if self._contents.directory is None:
            raise StorageError("this memory is kept in no directory; save it to one first")
        return self._contents.directory

    def _require_unkept(self, doing: str) -> None:
        if self._contents.directory is not None:
            raise StorageError(
                f"{doing} would change what is kept in {self.directory}; inside temporarily() it "
                "changes nothing there, and an empty memory can be attached instead"
            )

    @property
    def _contents(self) -> Contents:
        return self.attached_model.contents

    def _change(self, **options: Any) -> None:
        self.attached_model.options = replace(self.options, **options)

    def _change_of_all(self, name: str, value: int) -> None:
        """Change an option that all memories of a model share."""
        if self.attached_model.default is not self.attached_model:
            raise OptionError(f"{name} is that of the model; set it by the model's default memory")
        self._change(**{name: value})

    def _put(self, contents: Contents) -> None:
        """Remember something else; stores that nobody else uses are closed."""
        with interrupts_deferred():
            self.attached_model.contents = contents

    def _go_back(self, before: Contents) -> None:
        """Remember what was remembered before a temporary block, and end the blocks inside it."""
        with interrupts_deferred():
            if before in self._before:
                del self._before[self._before.index(before) :]
                self._put(before)
