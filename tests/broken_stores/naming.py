"""Stores whose attributes have the names of a base class's own."""

from torch import Tensor

from fotmem.stores import Hits
from tests.broken_stores.registry import caught_by
from tests.plain_stores import PlainStore


@caught_by("no_private_name_is_used_twice", message=r"_unseen \(of MemoryStore\)")
class AttributeHasTheNameOfTheBase(PlainStore):
    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        self._unseen = None
        return super().search_rows(queries, top_k)


@caught_by("no_private_name_is_used_twice", message=r"_check \(of MemoryStore\)")
class MethodHasTheNameOfTheBase(PlainStore):
    def _check(self, name: str, tensor: Tensor, axis: str) -> None:
        super()._check(name, tensor, axis)
