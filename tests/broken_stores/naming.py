"""Stores whose attributes have the names of a base class's own."""

from torch import Tensor

from fotmem.stores import Hits
from tests.broken_stores.registry import caught_by
from tests.plain_stores import PlainStore


@caught_by("no_private_name_is_used_twice", message=r"_newest \(of MemoryStore\)")
class AttributeHasTheNameOfTheBase(PlainStore):
    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        self._newest = None
        return super().search_rows(queries, top_k)


@caught_by("no_private_name_is_used_twice", message=r"_require_vectors \(of MemoryStore\)")
class MethodHasTheNameOfTheBase(PlainStore):
    def _require_vectors(self, name: str, tensor: Tensor, axis: str) -> None:
        super()._require_vectors(name, tensor, axis)
