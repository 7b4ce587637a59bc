"""Captures keys, values and queries of memory layers while a model reads a text."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fotmem import amounts
from fotmem.errors import InputError
from fotmem.files import cache_folder
from fotmem.measure.capture.info import CaptureInfo, KeyValues, doublings
from fotmem.measure.capture.layout import Capture
from fotmem.memory.windows import checked_overlap
from fotmem.progress import spans_told

if TYPE_CHECKING:
    from fotmem.memory.reading import Projections


def capture_model(
    model: Any,
    input_ids: Sequence[int],
    directory: Path | str | None,
    *,
    tokens: int,
    queries: int = 1024,
    layers: Iterable[int] | None = None,
    window: int = 512,
    overlap: int = 16,
    distance: int | None = None,
    seed: int = 0,
    progress: bool | Callable[[int], None] = False,
) -> Capture:
    """Capture keys, values and queries of memory layers while a model reads a text, without memory.

    Keys and values are those of `tokens` tokens. Queries are those of the tokens that follow the
    first 1,024, 2,048 ... and all of these: the queries that a memory of this size answers. The
    first `overlap` tokens of the text precede them and are not captured: the very first token is an
    attention sink (Xiao et al. 2023, arXiv:2309.17453), which has most of the softmax mass, and
    which every store finds. A second call continues a stopped capture.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A model of a supported family, without memory.
    input_ids : sequence of int
        Token ids of the text, a window more than `tokens`.
    directory : Path, str or None
        A new folder, or that of the same capture to continue. None: a folder in
        ``$XDG_CACHE_HOME/fotmem/captures`` (``~/.cache``), with a name that identifies the capture.
    tokens : int
        Number of tokens, at least 1.
    queries : int
        Queries of a head after each size, at least 1: drawn from those of one window, or of several
        where one has too few.
    layers, window, distance
        As for `fotmem.attach`.
    overlap : int
        As for `Memory.read`.
    seed : int
        Seed of the choice of queries.
    progress : bool or callable
        Show a progress bar on stderr; or a function that takes the number of captured tokens.

    Raises
    ------
    InputError
        The text is too short.
    OptionError, StorageError
    ModelError, AttachError, LayerError
        As `fotmem.attach`.
    """
    from fotmem.memory.attachment import (
        attach,  # brings transformers, which reading captures does not need
    )

    tokens, queries = amounts.count("tokens", tokens), amounts.count("queries", queries)
    seed = amounts.seed(seed)
    if directory is not None:
        Capture.check_place(directory)
    with attach(model, "exact", layers, window=window, distance=distance) as memory:
        overlap = checked_overlap(overlap, memory.options.window)
        heads, dim, scale = memory.attached_model.geometry(memory.layers[0])
        scale /= memory.temperature
        asking = max(
            window - overlap, math.ceil(queries * heads / model.config.num_attention_heads)
        )
        needed = overlap + tokens + asking
        if len(input_ids) < needed:
            raise InputError(
                f"the text has {len(input_ids):,} tokens; capturing {tokens:,}, with the tokens "
                f"before and the queries after them, takes {needed:,}: add text"
            )
        text = torch.as_tensor(input_ids[:needed], dtype=torch.long)
        source = {
            "kind": "model",
            "model": model.name_or_path,
            "projections": _digest(
                memory.attached_model.attention(layer) for layer in memory.layers
            ),
            "text": hashlib.sha256(text.numpy().tobytes()).hexdigest(),
            "window": window,
            "overlap": overlap,
            "distance": memory.distance,
            "seed": seed,
        }
        info = CaptureInfo(
            source=source,
            layers=memory.layers,
            num_heads=heads,
            head_dim=dim,
            scale=scale,
            tokens=tokens,
            sizes=doublings(tokens),
            queries=queries,
        )
        directory = directory or _kept(info)
        with Capture.writing(directory, info) as capture:
            for size in info.sizes[capture.asked :]:
                asked = text[size : overlap + size + asking]
                seen = memory.observe(asked, overlap=overlap)
                capture.write_queries(_drawn(seen, asking, queries, seed + size))
            for span in spans_told("reading", capture.missing, shown=progress is True):
                read = text[span.start : overlap + span.stop]
                capture.write_part(_rows(memory.observe(read, overlap=overlap), len(span)))
                if callable(progress):
                    progress(span.stop)
    return Capture.open(directory)


def _kept(info: CaptureInfo) -> Path:
    """Return the folder of a capture in the cache."""
    digest = hashlib.sha256(info.model_dump_json().encode()).hexdigest()
    return cache_folder("captures") / digest[:24]


def _rows(windows: Iterable[Mapping[int, Projections]], count: int) -> dict[int, KeyValues]:
    """Join keys and values of the last `count` tokens, by layer."""
    pairs = _by_layer(windows, lambda seen: (seen.keys, seen.values))
    return {
        layer: KeyValues(*(torch.cat(parts, 1)[:, -count:] for parts in zip(*found, strict=True)))
        for layer, found in pairs.items()
    }


def _drawn(
    windows: Iterable[Mapping[int, Projections]], count: int, queries: int, seed: int
) -> dict[int, Tensor]:
    """Draw queries ``[H, Q, D]`` of the last `count` tokens, by layer."""
    chosen = {}
    for layer, found in _by_layer(windows, lambda seen: seen.queries).items():
        every = torch.cat(found, 2)[:, :, -count:].flatten(1, 2)  # [H, G * count, D]
        order = torch.randperm(every.shape[1], generator=torch.Generator().manual_seed(seed))
        chosen[layer] = every[:, order[:queries].to(every.device)]
    return chosen


def _by_layer(
    windows: Iterable[Mapping[int, Projections]], kept: Callable[[Projections], Any]
) -> dict[int, list[Any]]:
    """Collect a part of every window, by layer."""
    found: dict[int, list[Any]] = {}
    for seen in windows:
        for layer, each in seen.items():
            found.setdefault(layer, []).append(kept(each))
    return found


def _digest(attentions: Iterable[nn.Module]) -> str:
    """Return a digest of the attention weights: it distinguishes models with the same name."""
    digest = hashlib.sha256()
    for attention in attentions:
        for parameter in attention.parameters():
            digest.update(parameter.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()
