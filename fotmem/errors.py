"""Every error fotmem raises, each also a builtin one.

::

    FotmemError
    ├── ShapeError(ValueError)            a tensor has another shape than documented
    ├── DtypeError(TypeError)             a tensor has a dtype that is not supported
    ├── NonFiniteError(ValueError)        NaN or Inf in keys, values or queries
    ├── IdError(IndexError)               an id that this store does not hold
    ├── OptionError(ValueError)           an unknown option, or a value out of range
    ├── UnknownStoreError(LookupError)    no plugin offers a store of that name
    ├── MissingPackageError(ImportError)  a store's or adapter's package is not installed
    ├── LayerError(IndexError)            a layer that is not there, or not a memory layer
    ├── ModelError(TypeError)             a model no adapter knows
    ├── CheckpointError(ValueError)       a checkpoint or config that cannot be honoured
    ├── AttachError(RuntimeError)         attaching twice, or using what was detached
    ├── UnsupportedError(RuntimeError)    a transformers feature that cannot work with memory
    ├── StorageError(OSError)             a store that is closed, or whose files cannot be used
    ├── BusyError(RuntimeError)           a store that another thread is just changing
    └── InputError(ValueError)            text, tokens or model names that cannot be used
"""

import difflib
from collections.abc import Iterable, Sequence
from importlib.util import find_spec


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
    """Keys, values or queries hold NaN or Inf."""

    def __init__(self, name: str, place: str = "") -> None:
        where = f", first at {place}" if place else ""
        super().__init__(
            f"{name} must be finite, found NaN or Inf{where}; "
            f"nothing was stored or searched. Look for an overflow in the model (float16?)"
        )


class IdError(FotmemError, IndexError):
    """An id that the store does not hold: never given out, or forgotten since."""

    def __init__(self, actual: int, *, start: int, first: int, end: int) -> None:
        held = f"{first} to {end - 1}" if end > first else "nothing"
        if start <= actual < first:
            reason = f"it was forgotten, as all before {first}; look up what you need before forget"
        elif actual < 0:
            reason = "ids are never negative, but for -1 where search found no hit"
        elif actual < start:
            reason = f"it was never stored: ids begin at {start} here, see first_id"
        else:
            reason = f"it was never stored: the next key that is added gets {end}, see next_id"
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

    def __init__(self, name: object, known: Iterable[str]) -> None:
        super().__init__(f"no store is named {name!r}; {_suggest(str(name), known, 'there are')}")


class MissingPackageError(FotmemError, ImportError):
    """What a store or adapter needs is not installed."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name!r} is not available here: {reason}")


class LayerError(FotmemError, IndexError):
    """A layer that the model does not have, or that is not a memory layer."""


class ModelError(FotmemError, TypeError):
    """A model that no adapter knows."""


class CheckpointError(FotmemError, ValueError):
    """A checkpoint or a config that cannot be honoured."""


class AttachError(FotmemError, RuntimeError):
    """Attaching twice, or using a memory or cache that was detached."""


class UnsupportedError(FotmemError, RuntimeError):
    """A feature of transformers that cannot work while a memory is attached."""

    def __init__(self, feature: str, cure: str) -> None:
        super().__init__(f"{feature} cannot be used while a memory is attached; {cure}")


class StorageError(FotmemError, OSError):
    """A store that is closed, or its files: damaged, foreign, in use, not to be read or written."""


class BusyError(FotmemError, RuntimeError):
    """Two threads at a time change a store, or one changes it while the other copies it."""


class InputError(FotmemError, ValueError):
    """Text, tokens or a model name that cannot be used."""


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


def shown(value: object) -> str:
    """Show a value in one line of an error, cut short."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:60]}... ({type(value).__name__})"


def _suggest(name: str, known: Iterable[str], otherwise: str) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    listed = ", ".join(names) if names else "none"
    return (
        f"did you mean {close[0]!r}? ({otherwise}: {listed})" if close else f"{otherwise}: {listed}"
    )
