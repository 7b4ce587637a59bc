from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fotmem import FotmemError
from fotmem.errors import DtypeError, IdError, NonFiniteError, OptionError, ShapeError
from fotmem.stores.checks import DTYPES, require_finite
from fotmem.testing.store.naive import draw
from tests.plain_stores import PlainStore

HEADS, DIM = 2, 8
KEYS, VALUES = draw(HEADS, 30, DIM, seed=1), draw(HEADS, 30, DIM, seed=2)
QUERIES = draw(HEADS, 5, DIM, seed=3)


def filled() -> PlainStore:
    made = PlainStore(num_heads=HEADS, head_dim=DIM)
    made.add(KEYS, VALUES)
    return made


def broken(value: float, *place: int) -> Tensor:
    tensor = KEYS.clone()
    tensor[place] = value
    return tensor


@pytest.mark.parametrize(
    "keys, values, error, message",
    [
        (KEYS[0], VALUES[0], ShapeError, r"keys must have shape \[H=2, N, D=8\], got \[30, 8\]"),
        (KEYS[:1], VALUES[:1], ShapeError, r"keys .* got \[1, 30, 8\]"),
        (KEYS[..., :7], VALUES, ShapeError, r"keys .* got \[2, 30, 7\]"),
        (KEYS[None], VALUES, ShapeError, r"keys .* got \[1, 2, 30, 8\]"),
        (KEYS, VALUES[..., :7], ShapeError, r"values .* got \[2, 30, 7\]"),
        (KEYS, VALUES[:, :9], ShapeError, r"values .* \[2, 30, 8\] as keys, got \[2, 9, 8\]"),
        (KEYS.double(), VALUES, DtypeError, r"keys must be float32, .* got torch.float64"),
        (KEYS, VALUES.int(), DtypeError, r"values must be float32, .* got torch.int32"),
        (broken(torch.nan, 1, 7, 3), VALUES, NonFiniteError, r"keys .* first at \[1, 7, 3\]"),
        (KEYS, broken(torch.inf, 0, 2), NonFiniteError, r"values .* first at \[0, 2, 0\]"),
        (broken(-torch.inf, 0, 0, 0), VALUES, NonFiniteError, "keys must be finite"),
    ],
)
def test_bad_keys_and_values_are_refused_and_never_reach_the_store(
    keys: Tensor, values: Tensor, error: type[FotmemError], message: str
) -> None:
    made = filled()
    with pytest.raises(error, match=message):
        made.add(keys, values)
    assert made.next_id == len(made) == 30
    assert made.calls == ["add_rows"]


@pytest.mark.parametrize(
    "queries, error, message",
    [
        (QUERIES[0], ShapeError, r"queries must have shape \[H=2, Q, D=8\], got \[5, 8\]"),
        (QUERIES.repeat(2, 1, 1), ShapeError, r"queries .* got \[4, 5, 8\]"),
        (QUERIES.double(), DtypeError, "queries must be float32, .* got torch.float64"),
        (broken(torch.nan, 1), NonFiniteError, "queries must be finite"),
        (broken(torch.inf, 1, 29, 7), NonFiniteError, r"queries .* first at \[1, 29, 7\]"),
    ],
)
def test_bad_queries_are_refused(queries: Tensor, error: type[FotmemError], message: str) -> None:
    made = filled()
    with pytest.raises(error, match=message):
        made.search(queries, 3)
    with pytest.raises(error, match=message):
        made.attend(queries, top_k=None, scale=1.0)
    assert made.calls == ["add_rows"]


@pytest.mark.parametrize("top_k", [0, -1, 1.5, True, "3"])
def test_top_k_must_be_a_positive_integer(top_k: Any) -> None:
    made = filled()
    with pytest.raises(OptionError, match="top_k must be an integer of at least 1, got"):
        made.search(QUERIES, top_k)
    with pytest.raises(OptionError, match="top_k must be an integer of at least 1, got"):
        made.attend(QUERIES, top_k=top_k, scale=1.0)


@pytest.mark.parametrize("count", [-1, 1.5, True, "3", None, float("nan")])
def test_counts_must_be_integers(count: Any) -> None:
    made = filled()
    with pytest.raises(OptionError, match="count must be an integer of at least 0, got"):
        made.forget(count)
    with pytest.raises(OptionError, match="first_id must be an integer of at least 0, got"):
        PlainStore(num_heads=HEADS, head_dim=DIM).start_at(count)
    assert len(made) == 30


def test_integers_of_numpy_are_integers() -> None:
    made = filled()
    made.forget(np.int64(4))  # type: ignore[arg-type]
    assert len(made) == 26
    assert type(made.first_id) is int
    assert made.search(QUERIES, np.int32(3)).ids.shape[2] == 3  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8, "float32", None])
def test_a_store_keeps_one_of_three_dtypes(dtype: Any) -> None:
    with pytest.raises(DtypeError, match="dtype must be float32, bfloat16, float16"):
        PlainStore(num_heads=1, head_dim=4, dtype=dtype)


@pytest.mark.parametrize("outside", [-2, 4, 35, 10**12])
def test_ids_that_are_not_held_are_refused(outside: int) -> None:
    made = PlainStore(num_heads=HEADS, head_dim=DIM)
    made.start_at(2)
    made.add(KEYS, VALUES)
    made.forget(3)
    ids = torch.tensor([5, -1, outside, 31]).expand(HEADS, 1, -1)
    with pytest.raises(IdError, match=f"id {outside} is not in this store, which holds 5 to 31"):
        made.keys(ids)
    with pytest.raises(DtypeError, match=r"ids must be int64, got torch\.int32"):
        made.values(ids.int())
    with pytest.raises(ShapeError, match=r"ids must have shape \[H=2, Q, K\], got \[1, 4\]"):
        made.values(ids[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_whose_sum_overflows_are_finite(dtype: torch.dtype) -> None:
    require_finite("keys", torch.full((2, 3, 4), torch.finfo(dtype).max, dtype=dtype))


def test_infinities_that_cancel_are_not_finite() -> None:
    keys = torch.tensor([[1.0, torch.inf], [-torch.inf, 1.0]])
    with pytest.raises(NonFiniteError, match=r"first at \[0, 1\] of \[2, 2\]"):
        require_finite("keys", keys)
