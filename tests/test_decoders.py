"""Every family of the table, with a tiny model: its layers, its memory, what it generates."""

from typing import Any

import pytest

from fotmem.testing.adapter.contract import AdapterFixtures
from fotmem.testing.adapter.layer import LayerContract
from fotmem.testing.adapter.memory import MemoryContract
from fotmem.testing.adapter.parts import PartsContract
from fotmem.testing.adapter.plain import PlainContract
from fotmem_decoders.families import FAMILIES
from tests import families


class ShortProof(AdapterFixtures):
    """The tests of the contract that see what an adapter can read wrongly from its modules."""

    run = PartsContract.run
    test_first = PartsContract.test_keys_at_the_first_position
    test_layer = LayerContract.test_parts_compose_to_the_models_own_layer
    test_memory = MemoryContract.test_memory_overflow_and_local_keys_share_one_softmax
    test_generating = PlainContract.test_generating_with_an_empty_memory_is_plain_generating


class TestFamilies(ShortProof):
    @pytest.fixture(params=FAMILIES)
    def model(self, request: Any) -> Any:
        return families.tiny(request.param)
