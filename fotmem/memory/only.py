"""Which documents the calls of a thread, or of an asyncio task, look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING

from fotmem.stores.id_ranges import IdRanges

if TYPE_CHECKING:
    from fotmem.memory.attached import AttachedModel

_CHOSEN: ContextVar[Mapping[AttachedModel, IdRanges]] = ContextVar(
    "fotmem documents", default=MappingProxyType({})
)


@contextmanager
def only(attached: AttachedModel, ids: IdRanges) -> Iterator[None]:
    """Let calls of a model look at some of its memory's ids only, until the end of the block."""
    chosen = _CHOSEN.get()
    both = ids.intersection(chosen[attached]) if attached in chosen else ids
    token = _CHOSEN.set({**chosen, attached: both})
    try:
        yield
    finally:
        _CHOSEN.reset(token)


def visible_ids(attached: AttachedModel) -> IdRanges | None:
    """Return the ids that a call of the model may find now; None: all."""
    visible, chosen = attached.contents.text.visible, _CHOSEN.get().get(attached)
    if visible is None:
        return chosen
    return visible if chosen is None else visible.intersection(chosen)
