"""A model with an empty memory computes what the plain model does, in every dtype."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fotmem.testing.adapter.calls import (
    IMPLEMENTATIONS,
    SIDES,
    WINDOW,
    answers,
    attached,
    draw,
    generate,
    padded,
    use_attention,
)
from fotmem.testing.adapter.expect import expect, expect_close
from fotmem.testing.adapter.reference import Reference

EMPTY = 1e-5
"""Largest difference of logits with an empty memory."""


class EmptyMemoryContract:
    """What an empty memory must not change."""

    @pytest.mark.parametrize("attention", IMPLEMENTATIONS)
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

    @pytest.mark.parametrize("side", SIDES)
    def test_empty_memory_equals_the_plain_model_with_padding(
        self, tiny: Any, memory_layers: list[int], side: str
    ) -> None:
        """No token attends to padding, and padding has no position."""
        ids, mask = padded([draw(tiny, n, seed=n) for n in (5, WINDOW, 9)], side)
        real = mask.bool()
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        plain = tiny(ids, attention_mask=mask, position_ids=positions).logits[real]
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

    def test_everything_stays_on_the_device(self, tiny: Any, memory_layers: list[int]) -> None:
        """Logits on a GPU, where there is one, are those on the CPU."""
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
        text, question = draw(tiny, 40), draw(tiny, 30, seed=1)[None]
        with attached(tiny, memory_layers) as memory:
            memory.read(text)
            expected = tiny(question).logits
        tiny.to("cuda")
        with attached(tiny, memory_layers) as memory:
            memory.read(text)
            actual = tiny(question.to("cuda")).logits
        expect_close("logits on the GPU", actual.cpu(), expected, within=1e-3)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_half_precision_is_as_good_as_the_plain_model(
        self, tiny: Any, memory_layers: list[int], dtype: torch.dtype
    ) -> None:
        """Errors with a memory are no larger than those of the plain model's rounding."""
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
