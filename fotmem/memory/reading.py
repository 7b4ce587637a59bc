"""Runs a text through a model, window by window; collects keys and values of memory layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fotmem.arguments import is_text
from fotmem.documents import TokenizedDocument
from fotmem.errors import AttachError, InputError, shown
from fotmem.memory.attached import AttachedModel
from fotmem.memory.cache import MemoryCache, StopForward
from fotmem.memory.contents import Contents
from fotmem.memory.forward import run_step
from fotmem.memory.inputs import checked_tokens
from fotmem.memory.saving import commit, commit_if_behind, commit_if_due
from fotmem.memory.text import RememberedText
from fotmem.memory.text_to_read import TextToRead
from fotmem.memory.view import MemoryView
from fotmem.memory.windows import Step, spans
from fotmem.progress import spans_told

LONGEST_NAME = 4096
"""Characters of a document's name."""


class Projections(NamedTuple):
    """The keys, values and queries that a memory layer computes for some tokens."""

    keys: Tensor
    """Shape ``[H, n, D]``, as a store takes them: before rotary embedding."""
    values: Tensor
    """Shape ``[H, n, D]``."""
    queries: Tensor
    """Shape ``[H, G, n, D]``, as a store is asked: with rotary embedding."""

    def last(self, count: int) -> Projections:
        """Return those of the last tokens."""
        return Projections(*(each[..., -count:, :] for each in self))


def read(
    attached: AttachedModel,
    contents: Contents,
    text: TextToRead,
    attend: bool,
    overlap: int,
    progress: bool = False,
) -> None:
    """Append a text to `contents`, window by window; arguments as in `Memory.read`.

    Where contents are kept in a directory, it commits every ``COMMIT`` tokens, and at the end.
    """
    if contents.directory is not None:
        contents.directory.require_writable()
    rest = _begun(contents.text, text)
    if rest is None:
        commit_if_behind(contents)
        return
    text = rest
    tokens = text.ids
    before = contents.text.rows(max(0, len(contents) - overlap), len(contents)).ids
    context = torch.cat([before, tokens])
    window = attached.options.window
    windows = spans(len(tokens), window, overlap, len(before))
    for span in spans_told("reading", windows, shown=progress):
        stop = len(before) + span.stop
        begin = max(0, len(before) + span.start - overlap)
        overlapping = len(before) + span.start - begin
        projections = _run(attached, context[begin:stop], contents if attend else None, overlapping)
        pieces = {layer: (each.keys, each.values) for layer, each in projections.items()}
        contents.append(text.rows(span.start, span.stop), pieces)
        commit_if_due(contents)
    contents.text.end()
    if contents.directory is not None:
        commit(contents, contents.directory)


def _begun(remembered: RememberedText, text: TextToRead) -> TextToRead | None:
    """Begin a document, or go on with one; return what of it is to be read, None for nothing."""
    before = remembered.find(text.name)
    if before is None and not text.name and not len(text.ids):
        return None
    if before is not None and before.is_complete and before.sha256 == text.sha256:
        return None
    stopped = remembered.find_stopped(text.name, text.sha256)
    if stopped is not None:
        return text.rest(len(stopped))
    remembered.begin(text.name, text.sha256, text.characters)
    return text


def observe(
    attached: AttachedModel, tokens: Tensor, overlap: int
) -> Iterator[dict[int, Projections]]:
    """Yield for every window what `read` would append; see `Memory.observe`."""
    for span in spans(len(tokens), attached.options.window, overlap):
        window = tokens[max(0, span.start - overlap) : span.stop]
        projections = _run(attached, window, None)
        yield {layer: each.last(len(span)) for layer, each in projections.items()}


def checked_text(attached: AttachedModel, given: Any, document: Any = None) -> TextToRead:
    """Check that a text can be read: token ids or a `TokenizedDocument`, with or without a name."""
    if not attached.is_attached:
        raise AttachError("this memory was detached from its model; attach again to read")
    name, vocabulary = checked_name(document), attached.parts.decoder.config.vocab_size
    if isinstance(given, TokenizedDocument):
        checked_tokens(given.ids, vocabulary)
        checked_name(given.document.name or None)
        return TextToRead.of_document(given, name)
    return TextToRead.of_ids(checked_tokens(given, vocabulary), name)


def checked_name(document: Any) -> str:
    """Check the name of a document; None is the empty name."""
    if document is None:
        return ""
    if not is_text(document) or not document.strip() or len(document) > LONGEST_NAME:
        raise InputError(
            f"document must be a name of 1 to {LONGEST_NAME} characters of Unicode, got "
            f"{shown(document)}"
        )
    return document


@torch.no_grad()
def _run(
    attached: AttachedModel, window: Tensor, contents: Contents | None, overlapping: int = 0
) -> dict[int, Projections]:
    """Run one window that attends to `contents`; return the projections of every memory layer.

    It begins with the last `overlapping` tokens of `contents`, and attends to those before them.
    """
    cache = MemoryCache(attached, reading=True)
    if contents is not None:
        options, (length, visible) = attached.options, contents.text.shown_to_reading
        how = (options, length - overlapping, visible, attached.counter, options.recent)
        cache.views = [(MemoryView(contents, *how),)]
    step = Step(torch.arange(len(window))[None], is_window=True)
    inputs = window[None].to(attached.input_device)
    with suppress(StopForward):
        run_step(attached.plain_forward, cache, step, "input_ids", inputs)
    return {layer: _projections(cache, layer) for layer in attached.layers}


def _projections(cache: MemoryCache, layer: int) -> Projections:
    local = cache.memory_layer(layer)
    assert local.queries is not None
    keys, values = (each[0] for each in local.window())
    queries = local.queries[0].detach()  # [H * G, T, D]
    return Projections(keys, values, queries.unflatten(0, (len(keys), -1)))
