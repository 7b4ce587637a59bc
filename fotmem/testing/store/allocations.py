"""Records the tensors that code allocates."""

import functools
import weakref
from collections.abc import Iterator
from typing import Any

from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode


class Allocations(TorchDispatchMode):
    """Records, inside ``with``, the elements of every new tensor, except views."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: list[int] = []
        self.peak = 0
        """Peak of the elements alive at once."""
        self.bytes = 0
        """All allocated bytes."""
        self.written = 0
        """Bytes written into existing tensors."""
        self.peak_bytes = 0
        """Peak of the bytes alive at once."""
        self._alive: dict[int, weakref.ref[UntypedStorage]] = {}
        self._elements_alive, self._bytes_alive = 0, 0

    @property
    def largest(self) -> int:
        """Elements of the largest tensor."""
        return max(self.sizes, default=0)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result: object = func(*args, **(kwargs or {}))
        self.written += _bytes_written(func, args, kwargs or {})
        known = {_place(tensor) for tensor in _tensors((args, kwargs))}
        for tensor in _tensors(result):
            if tensor.numel() and _place(tensor) not in known:
                self._record(tensor)
        return result

    def _record(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        size = storage.nbytes()
        elements = size // tensor.element_size()
        self.bytes += size
        self.sizes.append(elements)
        self._count(elements, size)
        self.peak = max(self.peak, self._elements_alive)
        self.peak_bytes = max(self.peak_bytes, self._bytes_alive)

        def freed(reference: weakref.ref[UntypedStorage]) -> None:
            del self._alive[id(reference)]
            self._count(-elements, -size)

        reference = weakref.ref(storage, freed)  # a view may outlive the tensor it was taken of
        self._alive[id(reference)] = reference

    def _count(self, elements: int, size: int) -> None:
        self._elements_alive += elements
        self._bytes_alive += size


@functools.cache
def _arguments_written(func: Any) -> list[tuple[int, str]]:
    """Places and names of the arguments of an operator that it writes into."""
    return [
        (place, argument.name)
        for place, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]


def _bytes_written(func: Any, args: Any, kwargs: Any) -> int:
    into = [
        args[place] if place < len(args) else kwargs.get(name)
        for place, name in _arguments_written(func)
    ]
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(into))


def _tensors(given: object) -> Iterator[Tensor]:
    if isinstance(given, Tensor):
        yield given
    elif isinstance(given, tuple | list):
        for each in given:
            yield from _tensors(each)
    elif isinstance(given, dict):
        yield from _tensors(list(given.values()))


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
