"""Which memories a call of the model looks at: a context variable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, Protocol

from fotmem.errors import AttachError, OptionError
from fotmem.memory.attached import AttachedModel
from fotmem.memory.only import shown_ids
from fotmem.memory.view import MemoryView


class ChosenMemory(Protocol):
    """A `Memory`, as far as a choice knows it."""

    @property
    def attached_model(self) -> AttachedModel:
        """What it is attached to."""


class Choice(NamedTuple):
    """The memories that one `using` block chooses."""

    rows: tuple[tuple[ChosenMemory, ...], ...]
    """Of each batch row; a single entry where all rows have the same."""
    is_by_row: bool
    """Whether there is an entry for each row."""
    has_age: bool = True
    """Whether recent tokens keep their positions, and older keys have less weight."""

    def concerns(self, model: AttachedModel) -> bool:
        """Whether its memories are of this model; a choice of no memory concerns all models."""
        memories = [memory for row in self.rows for memory in row]
        return not memories or memories[0].attached_model.decoder is model.decoder


CHOICES: ContextVar[tuple[Choice, ...]] = ContextVar("fotmem_choices", default=())
"""Those of the blocks around, the outermost first; of one thread or task."""


@contextmanager
def choosing(choice: Choice) -> Iterator[None]:
    """Let calls of this thread or asyncio task look at these memories in a ``with`` block."""
    token = CHOICES.set((*CHOICES.get(), choice))
    try:
        yield
    finally:
        CHOICES.reset(token)


def views_of_rows(model: AttachedModel, rows: int) -> list[tuple[MemoryView, ...]]:
    """Return what each of `rows` batch rows of a call that begins now looks at.

    Raises
    ------
    AttachError
        A memory was detached since it was chosen.
    OptionError
        The choice is for another number of rows.
    """
    choice = next((each for each in reversed(CHOICES.get()) if each.concerns(model)), None)
    if choice is None:
        return [(_view_now(model),)] * rows
    views = {id(memory): _view(memory, model) for row in choice.rows for memory in row}
    if not choice.has_age:
        views = {memory: view.without_age() for memory, view in views.items()}
    chosen = [tuple(views[id(memory)] for memory in row) for row in choice.rows]
    if choice.is_by_row and rows % len(chosen):
        raise OptionError(
            f"using(rows=...) has {len(chosen)} entries, and the batch has {rows} rows; give an "
            "entry for each row (for several in succession, as many for each as generate makes)"
        )
    return [row for row in chosen for _ in range(rows // len(chosen))]


def _view(memory: ChosenMemory, model: AttachedModel) -> MemoryView:
    attached = memory.attached_model
    if attached.default is not model or not attached.is_attached:
        raise AttachError(
            "this memory was detached inside fotmem.using(); attach it again: "
            "fotmem.attach(model, memory=memory)"
        )
    return _view_now(attached)


def _view_now(attached: AttachedModel) -> MemoryView:
    contents = attached.contents
    contents.require_whole()
    length, ids = shown_ids(attached, contents)
    options = attached.options
    return MemoryView(contents, options, length, ids, attached.counter, options.recent)
