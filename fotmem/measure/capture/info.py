"""The description of a capture, and a piece of its data."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor


class CaptureInfo(BaseModel):
    """The description of a capture, in the attributes of the group."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    source: dict[str, Any]
    """Origin: a model, its text and its options; files; or a random generator."""
    layers: tuple[int, ...] = Field(min_length=1)
    num_heads: int = Field(ge=1)
    """Key/value heads ``H`` of a layer."""
    head_dim: int = Field(ge=1)
    """``D``."""
    scale: float = Field(gt=0)
    """Factor of the inner products."""
    tokens: int = Field(ge=1)
    """``N``."""
    sizes: tuple[int, ...] = Field(min_length=1)
    """Numbers of tokens after which there are queries, ascending; the last is `tokens`."""
    queries: int = Field(ge=1)
    """``Q``: queries of a head after each of the sizes, in random order."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len({*self.layers}) < len(self.layers) or min(self.layers) < 0:
            raise ValueError(f"layers must differ and be at least 0, got {self.layers}")
        if self.sizes != doublings(self.tokens):
            raise ValueError(f"sizes must be {doublings(self.tokens)}, got {self.sizes}")
        return self


def doublings(tokens: int) -> tuple[int, ...]:
    """Return the sizes with queries: 1,024 tokens, doubled again and again, and `tokens`.

    Examples
    --------
    >>> doublings(5000)
    (1024, 2048, 4096, 5000)
    """
    sizes = [2**bits for bits in range(10, tokens.bit_length()) if 2**bits < tokens]
    return (*sizes, tokens)


class KeyValues(NamedTuple):
    """Keys and values of consecutive tokens in one memory layer."""

    keys: Tensor
    """Shape ``[H, n, D]``, float32: the keys that are added to a store."""
    values: Tensor
    """Shape ``[H, n, D]``, float32."""
