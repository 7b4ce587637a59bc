"""What a plugin declares: its stores and adapters, as data."""

import importlib.util
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from fotmem.errors import MissingPackageError, OptionError
from fotmem.stores.options import StoreOptions

INTERFACE_VERSION = 1
"""Version of the plugin interface that this fotmem speaks."""


@dataclass(frozen=True, kw_only=True)
class StoreCapabilities:
    """What a store promises to callers, which its contract checks."""

    exact: bool
    """`search` always finds the best keys; False: it approximates."""
    persistent: bool = False
    """Accepts `directory`, and reopens what was flushed there."""
    devices: tuple[str, ...] = ("cpu",)
    """Device types its tensors may live on (``"cpu"``, ``"cuda"``)."""
    forgets: bool = False
    """`forget` frees memory; False: forgotten keys are only hidden."""
    estimates_tail: bool = False
    """``attend(top_k=None)`` estimates what it does not look at, instead of being exact."""

    def __post_init__(self) -> None:
        _require_names("devices of StoreCapabilities", self.devices)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Spec:
    name: str
    """The name that users give: lower case, words joined by ``-``."""
    factory: str | Callable[..., Any]
    """What makes it: ``"my_package.store:MyStore"``, as in entry points, or a callable.

    The module is imported when the first one is made, so that plugins stay light."""
    requires: tuple[str, ...] = ()
    """Import names of packages it needs beyond fotmem's own."""
    install: str = ""
    """The command that installs these, such as ``pip install 'fotmem[faiss]'``."""
    interface_version: int = INTERFACE_VERSION
    """Version of the interface that it was written for."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.name):
            raise OptionError(
                f"a spec's name must be lower-case words joined by '-', got {self.name!r}"
            )
        if not (callable(self.factory) or _names_an_object(self.factory)):
            raise OptionError(
                f"factory of {self.name!r} must be a string such as 'my_package.store:MyStore', or "
                f"callable, got {self.factory!r}"
            )
        _require_names(f"requires of {self.name!r}", self.requires)
        if not isinstance(self.interface_version, int):
            raise OptionError(
                f"interface_version of {self.name!r} must be an integer, "
                f"got {self.interface_version!r}"
            )

    @property
    def reason(self) -> str:
        """Why it is not available here, and the command that cures it; empty if available."""
        missing = [name for name in self.requires if not _installed(name)]
        if not missing:
            return ""
        cure = self.install or f"pip install {' '.join(missing)}"
        return f"needs {', '.join(missing)}, not installed: {cure}"

    @property
    def available(self) -> bool:
        """Whether everything it needs is installed."""
        return not self.reason

    def require(self) -> None:
        """Raise `MissingPackageError` unless it is available."""
        if reason := self.reason:
            raise MissingPackageError(self.name, reason)

    def load(self) -> Callable[..., Any]:
        """Import the factory; raises whatever its module raises, or `AttributeError`."""
        if not isinstance(self.factory, str):
            return self.factory
        found = pkgutil.resolve_name(self.factory)
        if not callable(found):
            raise TypeError(f"a {type(found).__name__}, which cannot be called")
        made: Callable[..., Any] = found
        return made


@dataclass(frozen=True, kw_only=True, eq=False)
class StoreSpec(_Spec):
    """One store that a plugin offers.

    Its factory is called with ``num_heads``, ``head_dim``, ``dtype`` and ``device`` by keyword;
    with ``options``, an instance of the model that the spec names; and with ``directory``, where it
    is persistent: a path, a URL (a str with ``://`` in it) or None.

    Examples
    --------
    >>> spec = StoreSpec(
    ...     name="my-store",
    ...     factory="my_package.store:MyStore",
    ...     capabilities=StoreCapabilities(exact=True),
    ... )
    >>> spec.available
    True
    """

    options: type[BaseModel] = field(default=StoreOptions)
    """Pydantic model of its options; none by default."""
    capabilities: StoreCapabilities
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Options that trade recall for latency, such as ``nprobe``, and the values that benchmarks
    try, ascending."""
    note: Callable[[], str] | None = None
    """Called by ``fotmem stores`` where the store is available. Returns one line on what it uses
    of this machine, such as whether it searches on the GPU, or an empty string."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.note is not None and not callable(self.note):
            raise OptionError(f"note of {self.name!r} must be callable, got {self.note!r}")
        if not (isinstance(self.options, type) and issubclass(self.options, BaseModel)):
            raise OptionError(
                f"options of {self.name!r} must be a pydantic model class, got {self.options!r}"
            )
        for name in self.grid:
            if name not in self.options.model_fields:
                known = ", ".join(self.options.model_fields) or "none"
                raise OptionError(f"grid of {self.name!r}: no option is named {name!r}, of {known}")
        if not isinstance(self.capabilities, StoreCapabilities):
            raise OptionError(
                f"capabilities of {self.name!r} must be StoreCapabilities, "
                f"got {self.capabilities!r}"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class AdapterSpec(_Spec):
    """One model family that a plugin can put memory layers into.

    Its factory is called without arguments.
    """

    architectures: tuple[str, ...]
    """Class names of the models it knows, as in a config's ``architectures``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_names(f"architectures of {self.name!r}", self.architectures)


def _require_names(label: str, names: object) -> None:
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        raise OptionError(f"{label} must be a tuple of str, got {names!r}")


def _names_an_object(text: object) -> bool:
    name = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
    return isinstance(text, str) and re.fullmatch(f"{name}:{name}", text) is not None


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except Exception:  # a dotted name imports its parent, which may do whatever it likes
        return False
