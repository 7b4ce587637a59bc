"""The attention that benchmarks measure with is what the model keeps and asks for."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fotmem
from benchmarks.captured import (
    Captured,
    Loaded,
    Random,
    blocks,
    queries_after,
    taken,
)
from fotmem.evaluation.passkey import OVERLAP
from fotmem.training.tune import DISTANCE
from tests import tiny

WINDOW, LENGTH = 48, 4 * (48 - OVERLAP)
LAYERS = (1, 3)
POSITIONS = 2 * DISTANCE


def source(folder: Path, **options: Any) -> tuple[Captured, Any, Tensor]:
    model, ids = tiny.llama(max_position_embeddings=POSITIONS), tiny.ids(600)[0]

    def load() -> Loaded:
        return model, ids.tolist()

    sizes = {"layers": LAYERS, "length": LENGTH, "window": WINDOW, **options}
    return Captured(load, folder, **sizes), model, ids


def test_keys_and_values_are_those_of_one_reading(tmp_path: Path) -> None:
    captured, model, ids = source(tmp_path)
    got = taken(captured, 3 * LENGTH)
    with fotmem.attach(model, layers=LAYERS, window=WINDOW, distance=DISTANCE) as memory:
        memory.read(ids[: OVERLAP + 3 * LENGTH], overlap=OVERLAP)
        for place, layer in enumerate(LAYERS):
            keys, values = tiny.contents(memory.store(layer))
            heads = slice(2 * place, 2 * place + 2)
            assert tiny.difference(got.keys[heads], keys[:, OVERLAP:]) < 1e-5
            assert tiny.difference(got.values[heads], values[:, OVERLAP:]) < 1e-5


def test_queries_are_those_that_follow_rotated_where_they_stand(tmp_path: Path) -> None:
    captured, model, ids = source(tmp_path)
    seen: list[Tensor] = []
    hook = model.model.layers[1].self_attn.q_proj.register_forward_hook(
        lambda module, args, output: seen.append(output[0].detach())
    )
    begin = OVERLAP + 2 * LENGTH - OVERLAP + (WINDOW - OVERLAP)  # the second window
    with torch.no_grad(), hook:
        model(ids[None, begin : begin + WINDOW], position_ids=DISTANCE + torch.arange(WINDOW)[None])
    queries = seen[0].view(WINDOW, 4, 8)
    turned = tiny.rotated(queries, DISTANCE + torch.arange(WINDOW))
    expected = turned.permute(1, 0, 2).reshape(2, 2 * WINDOW, 8)  # [H, G * T, D]
    part = captured.part(1).queries[:2]
    assert tiny.difference(part[:, 2 * WINDOW : 4 * WINDOW], expected) < 1e-4


def test_what_was_made_is_not_made_again(tmp_path: Path) -> None:
    first = source(tmp_path)[0].part(1)

    def load() -> Loaded:
        raise AssertionError("the model is not needed")

    kept = Captured(load, tmp_path, layers=LAYERS, length=LENGTH, window=WINDOW)
    assert [kept.has(number) for number in (0, 1)] == [False, True]
    assert torch.equal(kept.part(1).keys, first.keys)
    assert {file.suffix for file in tmp_path.iterdir()} == {".safetensors"}


def test_a_short_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="the text has 600 tokens"):
        source(tmp_path)[0].part(9)


def test_parts_are_cut_into_blocks() -> None:
    random = Random(2, dim=4, length=100)
    cut = list(blocks(random, 250, 40))
    assert [len(keys[0]) for keys, _ in cut] == [40, 40, 20, 40, 40, 20, 40, 10]
    whole = taken(random, 250)
    assert torch.equal(torch.cat([values for _, values in cut], 1), whole.values)
    assert torch.equal(whole.keys[:, 100:200], random.part(1).keys)
    assert torch.equal(whole.queries, queries_after(random, 250))
    assert torch.equal(whole.queries.sort(1).values, random.part(2).queries.sort(1).values)
