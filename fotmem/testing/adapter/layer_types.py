"""Layers that differ: which can have memory, and how each encodes positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fotmem.adapter import Adapter
from fotmem.errors import UnsupportedError
from fotmem.testing.adapter.calls import attached
from fotmem.testing.adapter.expect import expect_close
from fotmem.testing.adapter.methods import FIRST
from fotmem.testing.adapter.recording import attention_keys, record
from fotmem.testing.adapter.steps import chosen, of_layer, plain_run, projected, rotated


class LayerTypesContract:
    """`for_layer` refuses a layer, or returns an adapter that is right for it."""

    def test_other_layers_are_refused(self, tiny: Any, memory_layers: Sequence[int]) -> None:
        """Attaching to a layer that cannot have memory raises `UnsupportedError`."""
        for layer in range(tiny.config.get_text_config().num_hidden_layers):
            if layer in memory_layers:
                continue
            try:
                attached(tiny, [layer]).detach()
            except UnsupportedError:
                continue
            raise AssertionError(
                f"layer {layer} is none of `layers`, so attaching a memory to it must be refused: "
                "let for_layer() raise an UnsupportedError for it"
            )

    def test_each_layer_has_its_own_positions(
        self, tiny: Any, adapter: Adapter, memory_layers: Sequence[int]
    ) -> None:
        """Where RoPE has parameters by type of layer, each type gets another attention factor.

        Whatever the config says now, another checkpoint of the family may have YaRN in some of its
        layers only. A layer is refused then, or right.
        """
        if not scale_apart(tiny):
            return
        start = torch.zeros(1, 1, dtype=torch.long)
        first = record(tiny, start + 1, position_ids=start)
        for layer, call in chosen(plain_run(tiny), memory_layers):
            try:
                own = of_layer(adapter, call)
            except UnsupportedError:
                continue
            what = f"with an attention factor for each type of layer, the key of layer {layer}"
            _, key, _ = rotated(adapter, call)
            expect_close(
                what,
                key,
                call.keys,
                within=1e-5,
                hint="for_layer() must return the adapter of this type of layer.",
            )
            arguments = {
                **first.calls[layer].arguments,
                "hidden_states": call.arguments["hidden_states"][:1, :1],
            }
            expected, _ = attention_keys(call.attention, layer, arguments)
            _, key, _ = projected(adapter, call)
            actual = own.at_first_position(key[:1, :, :1], adapter.decoder(tiny))
            expect_close(f"{what} at the first position", actual, expected, within=1e-5, hint=FIRST)


def scale_apart(model: nn.Module) -> bool:
    """Set the attention factors of the types of layers to different values."""
    for module in model.modules():
        names = [name for name in vars(module) if name.endswith("_attention_scaling")]
        for number, name in enumerate(names, 1):
            setattr(module, name, 1 + 0.25 * number)
        if names:
            return True
    return False
