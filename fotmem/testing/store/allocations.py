"""What tensors a piece of code allocates."""

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocations(TorchDispatchMode):
    """Records, inside ``with``, the elements of every tensor that is made, views excepted."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: list[int] = []
        self.peak = 0
        """The most elements alive at once."""
        self.bytes = 0
        """All bytes that were ever allocated."""
        self.peak_bytes = 0
        """The most bytes alive at once."""
        self._alive: list[tuple[weakref.ref[Tensor], int, int]] = []

    @property
    def largest(self) -> int:
        """Elements of the largest tensor."""
        return max(self.sizes, default=0)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result: object = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        known = {_place(tensor) for tensor in given}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.numel() and _place(leaf) not in known:
                self._record(leaf)
        return result

    def _record(self, tensor: Tensor) -> None:
        size = tensor.untyped_storage().nbytes()
        self.bytes += size
        self.sizes.append(size // tensor.element_size())
        self._alive = [made for made in self._alive if made[0]() is not None]
        self._alive.append((weakref.ref(tensor), self.sizes[-1], size))
        self.peak = max(self.peak, sum(elements for _, elements, _ in self._alive))
        self.peak_bytes = max(self.peak_bytes, sum(size for _, _, size in self._alive))


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
