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
    ├── StorageError(OSError)             files that a store cannot read or write
    └── InputError(ValueError)            text, tokens or model names that cannot be used
"""

import difflib
from collections.abc import Iterable, Sequence


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
    """An id that the store does not hold (never added, or forgotten)."""

    def __init__(self, actual: int, *, first: int, end: int) -> None:
        held = f"{first} to {end - 1}" if end > first else "nothing"
        super().__init__(f"id {actual} is not in this store, which holds {held} (-1: no hit)")


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
    """Files of a store that are damaged, foreign, in use, or cannot be read or written."""


class InputError(FotmemError, ValueError):
    """Text, tokens or a model name that cannot be used."""


def _suggest(name: str, known: Iterable[str], otherwise: str) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    listed = ", ".join(names) if names else "none"
    return (
        f"did you mean {close[0]!r}? ({otherwise}: {listed})" if close else f"{otherwise}: {listed}"
    )
