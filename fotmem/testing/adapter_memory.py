"""A model with memory layers by an adapter, against the plain model and the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fotmem.crossbatch import Crossbatch
from fotmem.store import MemoryStore
from fotmem.testing.calls import (
    IMPLEMENTATIONS,
    WINDOW,
    answers,
    attached,
    cached,
    draw,
    generate,
    in_turns,
    padded,
    use_attention,
)
from fotmem.testing.expect import expect, expect_close
from fotmem.testing.reference import Reference

EMPTY, JOINT = 1e-5, 1e-4
"""How close logits must be: without anything remembered, and with one softmax in parts."""

sides = pytest.mark.parametrize("side", ["left", "right"])
implementations = pytest.mark.parametrize("attention", IMPLEMENTATIONS)


class MemoryContract:
    """What the model answers while a memory is attached."""

    @implementations
    def test_empty_memory_equals_the_plain_model(
        self, tiny: Any, memory_layers: list[int], attention: str
    ) -> None:
        """Logits of calls inside the window: whole, by embeddings, in a batch, in turns."""
        use_attention(tiny, attention)
        plain = answers(tiny)
        with attached(tiny, memory_layers):
            for what, actual in answers(tiny).items():
                hint = "Nothing is remembered: attend() must be the model's own attention."
                expect_close(f"logits, {what}", actual, plain[what], within=EMPTY, hint=hint)

    @sides
    def test_empty_memory_equals_the_plain_model_with_padding(
        self, tiny: Any, memory_layers: list[int], side: str
    ) -> None:
        """Padding is seen by nobody."""
        ids, mask = padded([draw(tiny, n, seed=n) for n in (5, WINDOW, 9)], side)
        real = mask.bool()
        plain = tiny(ids, attention_mask=mask).logits[real]
        with attached(tiny, memory_layers):
            actual = tiny(ids, attention_mask=mask).logits[real]
        expect_close(f"logits, {side} padding", actual, plain, within=EMPTY)

    def test_generating_with_an_empty_memory_is_plain_generating(
        self, tiny: Any, memory_layers: list[int]
    ) -> None:
        """Greedily, with beams, and for a padded batch."""
        ids, mask = padded([draw(tiny, n, seed=n) for n in (5, 9)], "left")
        calls: list[tuple[Tensor, dict[str, Any]]] = [
            (ids[1:], {"attention_mask": mask[1:]}),
            (ids[1:], {"attention_mask": mask[1:], "num_beams": 2}),
            (ids, {"attention_mask": mask}),
        ]
        plain = [generate(tiny, *call) for call in calls]
        with attached(tiny, memory_layers):
            for call, expected in zip(calls, plain, strict=True):
                actual = generate(tiny, *call)
                expect(
                    torch.equal(actual, expected),
                    f"generated with an empty memory: expected {expected.tolist()}, "
                    f"got {actual.tolist()}",
                )

    @implementations
    def test_memory_and_local_keys_share_one_softmax(
        self, tiny: Any, memory_layers: list[int], attention: str
    ) -> None:
        """Every memory layer's output, and the logits, with two windows and a half remembered."""
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
        """A layer's memory does not depend on others having one."""
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
        """Input longer than the window is the same as moving the cache, over two turns."""
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
        """Stores hold keys as the model's attention computes them at position 0, and its values."""
        text = draw(tiny, 40)
        reference = Reference(tiny, memory_layers, window=WINDOW)
        reference.read(text)
        with attached(tiny, memory_layers) as memory:
            memory.read(text)
            for layer in memory_layers:
                expected = reference.stored(layer, reference.memory[layer])
                compare_contents(f"memory of layer {layer}", memory.store(layer), *expected)

    def test_local_keys_stand_at_their_positions(self, tiny: Any, memory_layers: list[int]) -> None:
        """Memory may stand some positions before the window: only local keys move."""
        text, question = draw(tiny, 20), draw(tiny, 30, seed=1)
        distance = tiny.config.get_text_config().max_position_embeddings - WINDOW
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

    def test_reading_may_look_at_memory(self, tiny: Any, memory_layers: list[int]) -> None:
        """With ``attend=True``, a window is read with all before it in memory."""
        text, question = draw(tiny, 40), draw(tiny, 9, seed=1)
        reference = Reference(tiny, memory_layers, window=WINDOW)
        reference.read(text, attend=True)
        with attached(tiny, memory_layers) as memory:
            memory.read(text, attend=True)
            compare(tiny, reference, memory_layers, question, "read with attend=True")

    def test_token_by_token_equals_one_forward(self, tiny: Any, memory_layers: list[int]) -> None:
        """As long as nothing overflows."""
        question = draw(tiny, WINDOW, seed=1)
        with attached(tiny, memory_layers) as memory:
            memory.read(draw(tiny, 40))
            whole = tiny(question[None]).logits
            for sizes in ([1] * WINDOW, [5, 1, WINDOW - 6]):
                actual = in_turns(tiny, question, sizes)
                hint = f"Called with {sizes} tokens at a time, and the cache of the call before."
                expect_close("logits in turns", actual, whole, within=JOINT, hint=hint)

    def test_token_by_token_beyond_the_window(self, tiny: Any, memory_layers: list[int]) -> None:
        """The whole local context moves to the overflow whenever the window is full."""
        tokens = draw(tiny, 2 * WINDOW + 5)
        reference = Reference(tiny, memory_layers, window=WINDOW)
        expected = torch.cat([reference.forward(token).logits for token in tokens.split(1)])
        with attached(tiny, memory_layers):
            actual = in_turns(tiny, tokens, [1] * len(tokens))[0]
        expect_close("logits token by token", actual, expected, within=JOINT)

    @sides
    @pytest.mark.parametrize("remembered", [0, 40])
    def test_rows_alone_equal_rows_in_a_batch(
        self, tiny: Any, memory_layers: list[int], remembered: int, side: str
    ) -> None:
        """Shorter and longer than the window, wherever their padding stands, over three turns."""
        with attached(tiny, memory_layers) as memory:
            memory.read(draw(tiny, remembered))
            texts = [draw(tiny, n, seed=n) for n in (5, WINDOW, 2 * WINDOW + 4)]
            ids, mask = padded(texts, side)
            together: Any = None
            alone: list[Any] = [None] * len(texts)
            for turn in range(3):
                out = tiny(ids, attention_mask=mask, **cached(tiny, together))
                together = out[1]
                for row, text in enumerate(texts):
                    single = tiny(text[None], **cached(tiny, alone[row]))
                    alone[row] = single[1]
                    actual = out.logits[row][mask[row, -ids.shape[1] :].bool()]
                    what = f"logits of row {row} of a batch ({side} padding, turn {turn})"
                    expect_close(what, actual, single.logits[0], within=JOINT)
                texts = [draw(tiny, 1, seed=10 * turn + row) for row in range(len(texts))]
                ids = torch.stack(texts)
                mask = torch.cat([mask, torch.ones_like(ids)], 1)

    @implementations
    def test_training_sees_what_memory_would_hold(
        self, tiny: Any, memory_layers: list[int], attention: str
    ) -> None:
        """In crossbatch training a window attends to the one before as if that were remembered."""
        previous, current = draw(tiny, 2 * WINDOW).split(WINDOW)
        reference = Reference(tiny, memory_layers, window=WINDOW)
        alone = reference.forward(previous).logits
        reference.new_sequence()
        reference.read(previous)
        expected = torch.stack([alone, reference.forward(current).logits])
        use_attention(tiny, attention)
        with Crossbatch(tiny, memory_layers):
            actual = tiny(torch.stack([previous, current])).logits
        expect_close("logits of a window and the next one", actual, expected, within=JOINT)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_half_precision_is_as_good_as_the_plain_model(
        self, tiny: Any, memory_layers: list[int], dtype: torch.dtype
    ) -> None:
        """An empty memory changes nothing; a full one costs no more than rounding does anyway."""
        text, question = draw(tiny, 40), draw(tiny, WINDOW, seed=1)
        reference = Reference(tiny, memory_layers, window=WINDOW)
        expected = reference.forward(question).logits
        tiny.to(dtype)
        plain = tiny(question[None]).logits[0]
        usual = float((plain.double() - expected).abs().max())
        with attached(tiny, memory_layers) as memory:
            actual = tiny(question[None]).logits[0]
            expect_close("logits, empty memory", actual, plain, within=usual / 100)
            memory.read(text)
            reference.new_sequence()
            reference.read(text)
            out = tiny(question[None]).logits[0]
            kinds = {"logits": out.dtype, "memory": memory.store(memory_layers[0]).dtype}
            for what, kind in kinds.items():
                expect(kind == dtype, f"{what} must be {dtype} as the model is, got {kind}")
            expected = reference.forward(question).logits
            expect_close(f"logits in {dtype}", out, expected, within=3 * usual)


def compare(
    model: Any,
    reference: Reference,
    layers: Sequence[int],
    question: Tensor,
    what: str,
    cache: object = None,
) -> Any:
    """Ask model and reference, compare memory layers and logits; return the cache."""
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
    """Compare what a store holds with keys and values ``[H, N, D]``."""
    every = torch.arange(store.first_id, store.next_id).expand(store.num_heads, 1, -1)
    for name, actual, expected in (
        ("keys", store.keys(every)[:, 0], keys),
        ("values", store.values(every)[:, 0], values),
    ):
        hint = (
            "Keys are remembered as at_first_position() returns them: not as a view that changes."
        )
        expect_close(f"{name} in the {what}", actual, expected, within=JOINT, hint=hint)


@contextmanager
def attention_outputs(modules: dict[int, nn.Module]) -> Iterator[dict[int, list[Tensor]]]:
    """Collect what attention modules return for one row, ``[n, hidden]`` a window."""
    pieces: dict[int, list[Tensor]] = {layer: [] for layer in modules}

    def collect(layer: int) -> Callable[..., None]:
        return lambda module, args, output: pieces[layer].append(output[0][0])

    handles = [module.register_forward_hook(collect(layer)) for layer, module in modules.items()]
    try:
        yield pieces
    finally:
        for handle in handles:
            handle.remove()
