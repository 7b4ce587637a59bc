"""Which documents the calls of a thread, or of an asyncio task, look at."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from fotmem.errors import OptionError, shown
from fotmem.stores.id_ranges import IdRanges

if TYPE_CHECKING:
    from fotmem.memory.attached import AttachedModel
    from fotmem.memory.contents import Contents


class ChosenDocuments(NamedTuple):
    """Documents by their names, and the ids that their tokens had when the block began."""

    names: frozenset[str]
    ids: IdRanges
    visible: IdRanges | None
    """All ids that could be found then: others, once a document was removed or replaced."""
    compactions: int
    """How often ids had changed by then."""


_CHOSEN: ContextVar[Mapping[AttachedModel, ChosenDocuments]] = ContextVar(
    "fotmem documents", default=MappingProxyType({})
)


@contextmanager
def only(attached: AttachedModel, documents: Collection[str]) -> Iterator[None]:
    """Let calls of a model look at some documents of its memory, until the end of the block."""
    if not isinstance(documents, Collection):
        raise OptionError(f"documents must be a list of names, got {shown(documents)}")
    chosen, contents = _CHOSEN.get(), attached.contents
    contents.text.require(documents)
    names = frozenset(documents)
    if attached in chosen:
        names &= chosen[attached].names
    ids = contents.text.ids_of(names)
    mine = ChosenDocuments(names, ids, contents.text.visible, contents.compactions)
    token = _CHOSEN.set({**chosen, attached: mine})
    try:
        yield
    finally:
        _CHOSEN.reset(token)


def shown_ids(attached: AttachedModel, contents: Contents) -> tuple[int, IdRanges | None]:
    """Return the id after the last one now, and the ids that a call may find; None: all."""
    chosen = _CHOSEN.get().get(attached)
    length, visible = contents.shown()
    if chosen is None:
        return length, visible
    same = chosen.visible is visible and chosen.compactions == contents.compactions
    ids = chosen.ids if same else contents.text.ids_of(chosen.names)
    return length, ids if visible is None else visible.intersection(ids)
