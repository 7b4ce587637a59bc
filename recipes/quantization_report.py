"""Measures what int8 and int4 keys and values lose, and fills in `docs/keep.md`.

Run by ``make report-quantization``. It takes a few minutes: the demo model reads 8,192 tokens,
unless an earlier run has captured them.
"""

import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.captured import MODEL, demo
from fotmem.directory.facts import Fingerprint, ReadingFacts
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.disk import LayerShape
from fotmem.disk.quantization import LayerCodec, Quantization
from fotmem.measure.capture import Capture
from recipes.reports import fill, table
from recipes.stopping import run_recipe

PAGE = Path("docs/keep.md")
MARKER = "<!-- quantization, by make report-quantization -->\n"
TOKENS, LAYERS = 8192, (17, 18, 20, 21, 23)
AT_ONCE = 256
"""Queries of a head that are compared at once."""
DTYPE = torch.bfloat16
KINDS: tuple[Quantization | None, ...] = (None, "int8", "int4")
FACTS = ReadingFacts(
    model=MODEL,
    tokenizer="",
    fingerprint=Fingerprint(architecture="", weights="", adapter="", rope=""),
    window=512,
    last_context_length=256,
    top_k=32,
    distance=0,
    decay=0.0,
    temperature=1.0,
)


class Loss(NamedTuple):
    """What a quantization costs and saves."""

    quantization: Quantization | None
    bytes_per_token: float
    """In a directory, with tokens and checksums."""
    errors: dict[int, float]
    """Relative error of the attention output by layer: the mean over all queries."""


def main() -> None:
    """Measure each quantization, and write the table."""
    capture = demo(TOKENS, LAYERS)
    fill(PAGE, MARKER, figures([loss(capture, kind) for kind in KINDS]))


def loss(capture: Capture, quantization: Quantization | None) -> Loss:
    """Measure one quantization of keys and values in bfloat16."""
    errors = {
        layer: float(relative_errors(capture, layer, quantization).mean())
        for layer in capture.info.layers
    }
    return Loss(quantization, bytes_per_token(capture, quantization), errors)


def relative_errors(capture: Capture, layer: int, quantization: Quantization | None) -> Tensor:
    """Return the error of dense attention's output, relative to that of the captured vectors.

    Computed in float64.
    """
    keys, values = capture.rows(layer)
    kept = _codec(capture, quantization)
    pairs = [
        (k.double(), v.double())
        for k, v in ((keys, values), kept.decode(kept.encode(keys, values)))
    ]
    found = []
    for queries in capture.queries(layer).double().split(AT_ONCE, 1):
        right, lossy = ((queries @ k.mT * capture.info.scale).softmax(-1) @ v for k, v in pairs)
        found.append((lossy - right).norm(dim=-1) / right.norm(dim=-1))
    return torch.cat(found, 1)


def bytes_per_token(capture: Capture, quantization: Quantization | None) -> float:
    """Write the memory to a directory, and count all its bytes."""
    shape = _codec(capture, None).shape
    layers = {layer: tuple(capture.rows(layer)) for layer in capture.info.layers}
    ids = torch.zeros(capture.info.tokens, dtype=torch.int32)
    with tempfile.TemporaryDirectory() as folder:
        shapes = dict.fromkeys(layers, shape)
        directory = MemoryDirectory.create(Path(folder, "memory"), shapes, FACTS, quantization)
        directory.append(ids, ids, ids, {n: (keys, values) for n, (keys, values) in layers.items()})
        directory.commit([])
        used = directory.storage.bytes_used()
        directory.close()
    return used / capture.info.tokens


def figures(losses: list[Loss]) -> str:
    """Write the table."""
    raw = losses[0].bytes_per_token
    layers = [f"layer {layer}" for layer in losses[0].errors]
    body = [
        [
            "none" if each.quantization is None else f"`{each.quantization}`",
            f"{each.bytes_per_token:,.0f} ({each.bytes_per_token / raw:.0%})",
            *(f"{error:.2%}" for error in each.errors.values()),
        ]
        for each in losses
    ]
    return table(["quantization", "bytes per token", *layers], body)


def _codec(capture: Capture, quantization: Quantization | None) -> LayerCodec:
    shape = LayerShape(capture.info.num_heads, capture.info.head_dim, DTYPE)
    return LayerCodec(shape, quantization)


if __name__ == "__main__":
    run_recipe(main)
