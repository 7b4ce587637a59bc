"""Keys and values in 8 or 4 bits: how a row is encoded, and what it is read back as."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fotmem.disk.array_group import Column, LayerShape

Quantization = Literal["int8", "int4"]
BITS = {"int8": 8, "int4": 4}
GROUP = 32
"""Channels that have bounds of their own; the last group of a row may have fewer."""


class LayerCodec(NamedTuple):
    """What the columns of a memory layer are, and how they are made of keys and values.

    Without quantization, the columns are the keys and the values. With it, each vector is cut into
    groups of 32 channels. A group has its lowest and its highest number in the layer's dtype, and
    for each channel a code of 8 or 4 bits: how far it is from the one to the other (asymmetric
    quantization per token and head; the zero point is the lowest number).

    A row depends on nothing but itself: not on those that are committed or kept with it. And what
    was decoded is encoded as it was: quantizing twice changes nothing. So whoever reads a text into
    a memory finds the same numbers as whoever opens it, however often it was stopped or compacted.
    """

    shape: LayerShape
    quantization: Quantization | None = None

    def columns(self) -> tuple[Column, ...]:
        """Return the columns of the layer's rows."""
        if self.quantization is None:
            return self.shape.columns()
        heads, head_dim, dtype = self.shape
        size = -(-head_dim * BITS[self.quantization] // 8)
        bounds = (-(-head_dim // GROUP), 2)
        return (
            Column("keys", heads, (size,), torch.uint8),
            Column("key_bounds", heads, bounds, dtype),
            Column("values", heads, (size,), torch.uint8),
            Column("value_bounds", heads, bounds, dtype),
        )

    def encode(self, keys: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        """Return the rows of all columns for keys and values ``[H, n, D]``, on CPU."""
        rows = [each.detach().to("cpu", self.shape.dtype) for each in (keys, values)]
        if self.quantization is None:
            return tuple(rows)
        bits = BITS[self.quantization]
        return tuple(part for each in rows for part in encoded(each, bits))

    def decode(self, rows: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return the keys and values ``[H, n, D]`` that rows of all columns stand for."""
        if self.quantization is None:
            keys, values = rows
            return keys, values
        codes, bounds, value_codes, value_bounds = rows
        return self.decode_vectors(codes, bounds), self.decode_vectors(value_codes, value_bounds)

    def decode_vectors(self, codes: Tensor, bounds: Tensor) -> Tensor:
        """Return the keys, or the values, ``[..., D]`` that codes and bounds stand for."""
        assert self.quantization is not None
        return decoded(codes, bounds, BITS[self.quantization], self.shape.head_dim)


def encoded(vectors: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return codes, uint8 ``[H, n, bytes]``, and bounds ``[H, n, groups, 2]`` of vectors."""
    width = vectors.shape[-1]
    channels = torch.arange(-(-width // GROUP) * GROUP).clamp(max=width - 1)
    groups = vectors[..., channels].unflatten(-1, (-1, GROUP))
    bounds = torch.stack(groups.aminmax(dim=-1), -1)
    low, high = bounds.double().split(1, -1)
    share = (groups.double() - low) / (high - low).where(high > low, 1.0)
    codes = (share * (2**bits - 1)).round().to(torch.uint8).flatten(-2)[..., :width]
    return _packed(codes, bits), bounds


def decoded(codes: Tensor, bounds: Tensor, bits: int, width: int) -> Tensor:
    """Return the vectors ``[..., width]`` that codes and bounds stand for."""
    exact = torch.float64 if bounds.dtype == torch.float32 else torch.float32
    padded = torch.nn.functional.pad(_unpacked(codes, bits, width), (0, -width % GROUP))
    shares = padded.unflatten(-1, (-1, GROUP)).to(exact).div_(2**bits - 1)
    low, high = bounds.to(exact).div_(2).split(1, -1)  # halves: no difference overflows
    vectors = torch.lerp(low, high, shares).mul_(2).to(bounds.dtype)
    return vectors.flatten(-2)[..., :width]


def _packed(codes: Tensor, bits: int) -> Tensor:
    """Put two codes of 4 bits into a byte, the first one into its lower half."""
    if bits == 8:
        return codes
    even = torch.nn.functional.pad(codes, (0, codes.shape[-1] % 2))
    return even[..., ::2] | even[..., 1::2] << 4


def _unpacked(codes: Tensor, bits: int, width: int) -> Tensor:
    if bits == 8:
        return codes
    return torch.stack([codes & 15, codes >> 4], -1).flatten(-2)[..., :width]
