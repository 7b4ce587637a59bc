"""Hubs: which ids are among them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fotmem.stores import HubKeys
from fotmem.testing.store.naive import draw


@given(
    st.lists(st.sets(st.integers(0, 70), max_size=20), min_size=1, max_size=3),
    st.sampled_from((0, 1, 10**12)),
)
def test_contain_finds_exactly_the_held_ids(hubs: list[set[int]], start: int) -> None:
    ids = torch.full((len(hubs), 20), -1)
    for row, some in zip(ids, hubs, strict=True):
        row[: len(some)] = start + torch.tensor(list(some))
    held = HubKeys.of(draw(len(hubs), 50, 4)).holding(ids, draw(len(hubs), 20, 4))
    asked = torch.arange(start - 20, start + 100).view(4, 30).expand(len(hubs), -1, -1)
    expected = [[int(one) - start in some for one in asked[0].ravel()] for some in hubs]
    assert held.contain(asked).flatten(1).tolist() == expected


@pytest.mark.parametrize("asked", [-1, 0, 7])
def test_there_are_no_hub_keys_at_first(asked: int) -> None:
    assert not HubKeys.of(draw(2, 50, 4)).contain(torch.full((2, 3, 4), asked)).any()
