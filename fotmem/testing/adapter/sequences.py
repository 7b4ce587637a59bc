"""The same tokens in other calls: several at a time, one at a time, in a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fotmem.testing.adapter.calls import (
    JOINT,
    SIDES,
    WINDOW,
    attached,
    cached,
    draw,
    in_turns,
    padded,
)
from fotmem.testing.adapter.expect import expect_close
from fotmem.testing.adapter.reference import Reference


class SequenceContract:
    """Results do not depend on how a sequence is split, or on other rows of the batch."""

    def test_token_by_token_equals_one_forward(self, tiny: Any, memory_layers: list[int]) -> None:
        """Calls with a few tokens each, without overflow."""
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

    @pytest.mark.parametrize("side", SIDES)
    @pytest.mark.parametrize("remembered", [0, 40])
    def test_rows_alone_equal_rows_in_a_batch(
        self, tiny: Any, memory_layers: list[int], remembered: int, side: str
    ) -> None:
        """Rows shorter and longer than the window, padded on either side, over three turns."""
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
