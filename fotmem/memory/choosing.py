"""Chooses the memories that calls of a model look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fotmem.errors import AttachError, OptionError, shown
from fotmem.memory.choice import Choice, choosing
from fotmem.memory.memory import Memory
from fotmem.memory.trace import own_calls

Chosen = Memory | Sequence[Memory] | None
"""A memory, several that are laid over one another, or none."""


@contextmanager
def using(memory: Chosen = None, *, rows: Sequence[Chosen] | None = None) -> Iterator[None]:
    """Let calls of the model look at these memories until the end of the block.

    The choice is a context variable: it holds in this thread, or in this asyncio task and tasks
    that begin in the block. Other threads and tasks have their own. Blocks may be nested; the
    innermost that has a memory of the model counts. Each call answers from its memories as they
    are when it begins.

    Parameters
    ----------
    memory : Memory, sequence of Memory, or None
        A memory, instead of the model's default one. Several are laid over one another: one softmax
        over all, and top k over all of them together, with the top k of the first. None: no memory.
    rows : sequence, optional
        Instead of `memory`, such an entry for every batch row. Of a batch with several times as
        many rows, each entry counts for as many in succession: for the beams of one input.

    Raises
    ------
    AttachError
        A memory is not attached, or the memories are of several models.
    OptionError
        An argument is something else. In a call of the model: the batch has another number of rows.

    Examples
    --------
    ::

        handbook = fotmem.open_memory("handbook", model)  # the default
        notes = fotmem.open_memory("notes", model)
        with fotmem.using([handbook, notes]):
            model.generate(**inputs)
        with fotmem.using(rows=[notes, None]):
            model(**batch_of_two)
    """
    if rows is None:
        choice = Choice((_checked("memory", memory),), is_by_row=False)
    else:
        choice = Choice(_checked_rows(memory, rows), is_by_row=True)
    memories = [each for row in choice.rows for each in row]
    if len({id(each.attached_model.decoder) for each in memories}) > 1:
        raise AttachError("these memories are of several models; give those of one model")
    own_calls()
    with choosing(choice):
        yield


def _checked_rows(memory: object, rows: Any) -> tuple[tuple[Memory, ...], ...]:
    if memory is not None:
        raise OptionError("give either a memory for all rows, or rows=[...], not both")
    if isinstance(rows, (str, bytes)) or not isinstance(rows, Sequence) or not rows:
        raise OptionError(f"rows must be a list with an entry for each row, got {shown(rows)}")
    return tuple(_checked(f"rows[{row}]", each) for row, each in enumerate(rows))


def _checked(name: str, chosen: Any) -> tuple[Memory, ...]:
    """Return memories that are attached, each once."""
    if chosen is None:
        return ()
    memories = chosen if isinstance(chosen, (list, tuple)) else [chosen]
    for each in memories:
        if not isinstance(each, Memory):
            expected = "a Memory, a list of them, or None"
            raise OptionError(f"{name} must be {expected}, got {shown(each)}")
        if not each.attached:
            raise AttachError(
                f"{name} is detached; attach it again: fotmem.attach(model, memory=memory)"
            )
    if len({id(each) for each in memories}) < len(memories):
        raise OptionError(f"{name} has the same memory twice; name each once")
    return tuple(memories)
