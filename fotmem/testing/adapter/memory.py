"""A model with a memory, compared with the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fotmem.crossbatch import Crossbatch
from fotmem.stores.store import MemoryStore
from fotmem.testing.adapter.calls import (
    IMPLEMENTATIONS,
    JOINT,
    WINDOW,
    attached,
    cached,
    draw,
    use_attention,
)
from fotmem.testing.adapter.expect import expect, expect_close
from fotmem.testing.adapter.reference import Reference


class MemoryContract:
    """What a model with a memory computes and stores."""

    @pytest.mark.parametrize("attention", IMPLEMENTATIONS)
    def test_memory_and_local_keys_share_one_softmax(
        self, tiny: Any, memory_layers: list[int], attention: str
    ) -> None:
        """Outputs of memory layers, and logits, with two and a half windows in memory."""
        reference = Reference(tiny, memory_layers, window=WINDOW)
        use_attention(tiny, attention)
        text, question = draw(tiny, 40), draw(tiny, WINDOW - 2, seed=1)
        plain = tiny(question[None]).logits[0]
        with attached(tiny, memory_layers) as memory:
            memory.read(text)
            reference.read(text)
            compare(tiny, reference, memory_layers, question, "with 40 tokens in memory")
            far = float((tiny(question[None]).logits[0] - plain).abs().max())
            expect(
                far > 100 * JOINT, f"memory must matter, but logits changed by {far:.3g} at most"
            )

    def test_each_layer_alone_can_have_memory(self, tiny: Any, memory_layers: list[int]) -> None:
        """Every layer works as the only memory layer."""
        text, question = draw(tiny, 20), draw(tiny, 9, seed=1)
        for layer in memory_layers:
            reference = Reference(tiny, [layer], window=WINDOW)
            reference.read(text)
            with attached(tiny, [layer]) as memory:
                memory.read(text)
                compare(tiny, reference, [layer], question, f"memory in layer {layer} alone")

    def test_memory_overflow_and_local_keys_share_one_softmax(
        self, tiny: Any, memory_layers: list[int]
    ) -> None:
        """Input longer than the window overflows as in the reference, over three turns."""
        text = draw(tiny, 20)
        reference = Reference(tiny, memory_layers, window=WINDOW)
        reference.read(text)
        with attached(tiny, memory_layers) as memory:
            memory.read(text)
            cache: Any = None
            for turn, length in enumerate((3 * WINDOW + 5, 7, WINDOW + 3)):
                question = draw(tiny, length, seed=turn + 1)
                what = f"turn {turn} of a long sequence"
                cache = compare(tiny, reference, memory_layers, question, what, cache)
            for layer in memory_layers:
                expected = reference.stored(layer, reference.overflow[layer])
                compare_contents(f"overflow of layer {layer}", cache.store(layer), *expected)

    def test_remembered_keys_stand_at_the_first_position(
        self, tiny: Any, memory_layers: list[int]
    ) -> None:
        """Stores hold the keys of the model's attention at position 0, and its values."""
        text = draw(tiny, 40)
        reference = Reference(tiny, memory_layers, window=WINDOW)
        reference.read(text)
        with attached(tiny, memory_layers) as memory:
            memory.read(text)
            for layer in memory_layers:
                expected = reference.stored(layer, reference.memory[layer])
                compare_contents(f"memory of layer {layer}", memory.store(layer), *expected)

    def test_memory_stands_at_one_distance(self, tiny: Any, memory_layers: list[int]) -> None:
        """With ``distance``, memory is that far from every token of a window."""
        ids = draw(tiny, WINDOW)
        moved = tiny(ids[None], position_ids=torch.arange(1, WINDOW + 1)[None]).logits
        if not torch.allclose(tiny(ids[None]).logits, moved, atol=JOINT):
            pytest.skip("what this model computes depends on where a window begins")
        text, question = draw(tiny, 20), draw(tiny, 30, seed=1)
        distance = WINDOW - 1  # where some kinds of RoPE have not changed yet
        reference = Reference(tiny, memory_layers, window=WINDOW, distance=distance)
        reference.read(text)
        with attached(tiny, memory_layers, distance=distance) as memory:
            memory.read(text)
            compare(tiny, reference, memory_layers, question, f"memory {distance} positions before")

    def test_reading_fills_every_memory_layer(self, tiny: Any, memory_layers: list[int]) -> None:
        """After `memory.read`, each store holds as many keys as tokens were read."""
        with attached(tiny, memory_layers) as memory:
            for count in (1, WINDOW, 40):
                memory.read(draw(tiny, count))
            lengths = {layer: len(memory.store(layer)) for layer in memory_layers}
            expected = dict.fromkeys(memory_layers, 41 + WINDOW)
            expect(
                lengths == expected and len(memory) == 41 + WINDOW,
                f"keys in memory by layer: expected {expected}, got {lengths}; "
                f"len(memory) is {len(memory)}",
            )

    def test_reading_may_attend_to_memory(self, tiny: Any, memory_layers: list[int]) -> None:
        """With ``attend=True``, each window attends to all windows before it."""
        text, question = draw(tiny, 40), draw(tiny, 9, seed=1)
        reference = Reference(tiny, memory_layers, window=WINDOW)
        reference.read(text, attend=True)
        with attached(tiny, memory_layers) as memory:
            memory.read(text, attend=True)
            compare(tiny, reference, memory_layers, question, "read with attend=True")

    @pytest.mark.parametrize("attention", IMPLEMENTATIONS)
    def test_training_sees_what_memory_would_hold(
        self, tiny: Any, memory_layers: list[int], attention: str
    ) -> None:
        """In crossbatch training a window attends to the one before as if it were in memory.

        But not to its first token: memories have none, because they are read with an overlap.
        """
        previous, current = draw(tiny, 2 * WINDOW).split(WINDOW)
        reference = Reference(tiny, memory_layers, window=WINDOW)
        alone = reference.forward(previous).logits
        reference.new_sequence()
        reference.read(previous)
        reference.memory = {layer: hidden[1:] for layer, hidden in reference.memory.items()}
        expected = torch.stack([alone, reference.forward(current).logits])
        use_attention(tiny, attention)
        with Crossbatch(tiny, memory_layers):
            actual = tiny(torch.stack([previous, current])).logits
        expect_close("logits of a window and the next one", actual, expected, within=JOINT)


def compare(
    model: Any,
    reference: Reference,
    layers: Sequence[int],
    question: Tensor,
    what: str,
    cache: object = None,
) -> Any:
    """Call model and reference, compare memory layers and logits; return the cache."""
    modules = {layer: model.get_submodule(reference.paths[layer]) for layer in layers}
    with attention_outputs(modules) as outputs:
        out = model(question[None], **cached(model, cache))
    expected = reference.forward(question)
    hint = "One softmax over local and remembered keys is expected, the latter at position 0."
    for layer in layers:
        actual = torch.cat(outputs[layer])
        name = f"attention of layer {layer}, {what}"
        expect_close(name, actual, expected.attention[layer], within=JOINT, hint=hint)
    expect_close(f"logits, {what}", out.logits[0], expected.logits, within=JOINT, hint=hint)
    return out[1]


def compare_contents(what: str, store: MemoryStore, keys: Tensor, values: Tensor) -> None:
    """Compare the contents of a store with keys and values ``[H, N, D]``."""
    every = torch.arange(store.first_id, store.next_id).expand(store.num_heads, 1, -1)
    for name, actual, expected in (
        ("keys", store.keys(every)[:, 0], keys),
        ("values", store.values(every)[:, 0], values),
    ):
        hint = "A store holds what at_first_position() returned, which must not change afterwards."
        expect_close(f"{name} in the {what}", actual, expected, within=JOINT, hint=hint)


@contextmanager
def attention_outputs(modules: dict[int, nn.Module]) -> Iterator[dict[int, list[Tensor]]]:
    """Collect the outputs of attention modules for one row, ``[n, hidden]`` per window."""
    pieces: dict[int, list[Tensor]] = {layer: [] for layer in modules}

    def collect(layer: int) -> Callable[..., None]:
        return lambda module, args, output: pieces[layer].append(output[0][0])

    handles = [module.register_forward_hook(collect(layer)) for layer, module in modules.items()]
    try:
        yield pieces
    finally:
        for handle in handles:
            handle.remove()
