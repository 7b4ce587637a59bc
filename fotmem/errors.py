"""All errors that fotmem raises; each is also a builtin error.

::

    FotmemError
    ├── ShapeError(ValueError)            a tensor's shape differs from the documented one
    ├── DtypeError(TypeError)             a tensor's dtype is not supported
    ├── NonFiniteError(ValueError)        keys, values or queries contain NaN or Inf
    ├── IdError(IndexError)               the store has no key with this id
    ├── OptionError(ValueError)           an option is unknown, or its value is not allowed
    ├── UnknownStoreError(LookupError)    no plugin offers a store of that name
    ├── MissingPackageError(ImportError)  a store's or adapter's package is not installed
    ├── LayerError(IndexError)            the model has no such layer, or it is not a memory layer
    ├── ModelError(TypeError)             no adapter supports the model
    ├── CheckpointError(ValueError)       a checkpoint or config is damaged or not supported
    ├── AttachError(RuntimeError)         a memory is attached twice, or used after it was detached
    ├── UnsupportedError(RuntimeError)    a transformers feature does not work with memory
    ├── StorageError(OSError)             a store is closed, or its files cannot be used
    ├── BusyError(RuntimeError)           another thread is changing the store
    └── InputError(ValueError)            a text, token ids or a model name cannot be used
"""

import difflib
from collections.abc import Iterable, Sequence
from importlib.util import find_spec

LISTED = 30
"""Names that a message lists beside a suggestion."""
MOST = 100
"""Names that a message lists without one; a memory may have any number of documents."""

__all__ = [
    "AttachError",
    "BusyError",
    "CheckpointError",
    "DtypeError",
    "FotmemError",
    "IdError",
    "InputError",
    "LayerError",
    "MissingPackageError",
    "ModelError",
    "NonFiniteError",
    "OptionError",
    "ShapeError",
    "StorageError",
    "UnknownStoreError",
    "UnsupportedError",
]


class FotmemError(Exception):
    """Base class of all errors of fotmem."""

    def __reduce__(self) -> tuple[object, ...]:
        # Pickled as the message: a worker process could not rebuild it from the facts.
        return type(self).__new__, (type(self), *self.args)


class ShapeError(FotmemError, ValueError):
    """A tensor's shape differs from the documented one."""

    def __init__(self, name: str, *, expected: str, actual: Sequence[int]) -> None:
        super().__init__(f"{name} must have shape {expected}, got {list(actual)}")


class DtypeError(FotmemError, TypeError):
    """A tensor's dtype is not supported."""

    def __init__(
        self, name: str, *, expected: str, actual: object, cure: str = "convert with .to(...)"
    ) -> None:
        super().__init__(f"{name} must be {expected}, got {actual!r}; {cure}")


class NonFiniteError(FotmemError, ValueError):
    """Keys, values or queries contain NaN or Inf."""

    def __init__(self, name: str, place: str = "") -> None:
        where = f", first at {place}" if place else ""
        super().__init__(
            f"{name} must be finite, found NaN or Inf{where}; "
            f"nothing was stored or searched. Look for an overflow in the model (float16?)"
        )


class IdError(FotmemError, IndexError):
    """The store has no key with this id: it was never added, or it was forgotten."""

    def __init__(self, actual: int, *, start: int, first: int, end: int) -> None:
        held = f"{first} to {end - 1}" if end > first else "nothing"
        if start <= actual < first:
            reason = f"it was forgotten, like all ids before {first}; look keys up before that"
        elif actual < 0:
            reason = "ids are not negative; search returns -1 where it found no hit"
        elif actual < start:
            reason = f"it was never added: ids of this store begin at {start} (first_id)"
        else:
            reason = f"it was never added: the next key gets id {end} (next_id)"
        super().__init__(f"id {actual} is not in this store, which holds {held}: {reason}")


class OptionError(FotmemError, ValueError):
    """An option is unknown, or its value is not allowed."""

    @classmethod
    def unknown(
        cls, name: str, owner: str, known: Iterable[str], *, kind: str = "option"
    ) -> "OptionError":
        """Build the error for an option (or hook) that `owner` does not have."""
        return cls(f"{owner} has no {kind} {name!r}; {_suggest(name, known, f'its {kind}s are')}")


class UnknownStoreError(FotmemError, LookupError):
    """No plugin offers a store of that name."""

    def __init__(self, name: object, known: Iterable[str], *, hint: str = "") -> None:
        stores = _suggest(str(name), known, "the stores are")
        super().__init__("; ".join(filter(None, [f"no store is named {name!r}", stores, hint])))


class MissingPackageError(FotmemError, ImportError):
    """A package that a store, adapter or command needs is not installed."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name!r} is not available here: {reason}")


class LayerError(FotmemError, IndexError):
    """The model has no such layer, or it is not a memory layer."""


class ModelError(FotmemError, TypeError):
    """No adapter supports the model."""


class CheckpointError(FotmemError, ValueError):
    """A checkpoint or config is damaged or not supported."""


class AttachError(FotmemError, RuntimeError):
    """A memory is attached twice, or a memory or cache is used after it was detached."""


class UnsupportedError(FotmemError, RuntimeError):
    """A feature of transformers does not work while a memory is attached."""

    def __init__(self, feature: str, cure: str) -> None:
        super().__init__(f"{feature} cannot be used while a memory is attached; {cure}")


class StorageError(FotmemError, OSError):
    """A store is closed, or its files are damaged, foreign, in use, unreadable or read-only."""


class BusyError(FotmemError, RuntimeError):
    """Another thread is changing or copying the store."""


class InputError(FotmemError, ValueError):
    """A text, token ids or a model name cannot be used."""


def require_packages(name: str, *packages: str, extra: str = "bench") -> None:
    """Raise `MissingPackageError`, which names all missing packages, unless all are installed.

    Parameters
    ----------
    name : str
        What needs them, such as a command.
    *packages : str
        Their import names.
    extra : str
        The extra of fotmem that installs them.
    """
    if missing := [package for package in packages if not _installed(package)]:
        *others, last = missing
        listed = f"{', '.join(others)} and {last}" if others else last
        raise MissingPackageError(
            name, f"needs {listed}, not installed: pip install 'fotmem[{extra}]'"
        )


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # a half-removed package
        return False


def one_line(error: BaseException) -> str:
    """Show an error in one line, with its type."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def shown(value: object) -> str:
    """Return a value as one short line for a message."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:60]}... ({type(value).__name__})"


def near_names(name: str, known: Iterable[str]) -> list[str]:
    """Return the name that is spelt most like this one, or else those that it is a part of."""
    spelt = {each.lower(): each for each in sorted(known)}
    close = difflib.get_close_matches(name.lower(), spelt, n=1, cutoff=0.5)
    parts = [each for each in spelt if len(name) > 1 and name.lower() in each]
    return [spelt[each] for each in close or parts[:3]]


def _suggest(name: str, known: Iterable[str], otherwise: str) -> str:
    names = sorted(known)
    others = f" and {len(names) - MOST:,} others" if len(names) > MOST else ""
    listed = f"{otherwise}: {', '.join(names[:MOST]) or 'none'}{others}"
    near = near_names(name, names)
    meant = f"did you mean {' or '.join(map(repr, near))}?"
    if not near:
        return listed
    return meant if len(names) > LISTED else f"{meant} ({listed})"
