"""Each method of an adapter, compared with the modules of the plain model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from fotmem.adapter import Adapter
from fotmem.testing.adapter.expect import expect, expect_close
from fotmem.testing.adapter.recording import AttentionCall, Run, attention_keys, record
from fotmem.testing.adapter.reference import repeated
from fotmem.testing.adapter.steps import TOKENS, chosen, of_layer, plain_run, projected, rotated

LAST = torch.full((1, TOKENS), TOKENS - 1)
"""A position for all tokens, where some kinds of RoPE have not changed yet."""
FIRST = (
    "With RoPE: the key as it is, times the attention factor of the RoPE, once. Where layers have "
    "different factors, for_layer() returns the adapter of the layer."
)


class MethodsContract:
    """One method at a time, without memory."""

    @pytest.fixture
    def run(self, tiny: Any) -> Run:
        """Return a call of the plain model with two rows at different positions."""
        return plain_run(tiny)

    def test_decoder_is_the_module_that_runs_the_layers(
        self, tiny: Any, adapter: Adapter, run: Run
    ) -> None:
        """`decoder` returns the innermost module that calls all attention modules."""
        actual = adapter.decoder(tiny)
        expect(
            actual is run.decoder,
            f"decoder(model) must return the module that runs the layers, "
            f"{_path(tiny, run.decoder)}, got {_path(tiny, actual)}",
        )

    def test_attentions_are_those_of_all_layers_in_order(
        self, tiny: Any, adapter: Adapter, run: Run
    ) -> None:
        """`attentions` lists the modules that fill the cache, in the order of its layers."""
        actual = [_path(tiny, module) for module in adapter.attentions(run.decoder)]
        expected = [_path(tiny, call.attention) for call in run.calls]
        expect(
            actual == expected,
            f"attentions(decoder) must return the attention module of every layer, in order: "
            f"{expected}, got {actual}",
        )

    def test_some_layers_can_have_memory(self, memory_layers: list[int]) -> None:
        """At least one layer can; `layers` of the test class names them."""
        expect(memory_layers != [], "`layers` must name at least one layer, got none")

    def test_geometry_is_that_of_the_keys(
        self, adapter: Adapter, run: Run, memory_layers: list[int]
    ) -> None:
        """`geometry` begins with the heads and the head dimension of keys in the cache."""
        for layer, call in chosen(run, memory_layers):
            _, heads, _, head_dim = call.keys.shape
            actual = tuple(of_layer(adapter, call).geometry(call.attention)[:2])
            expect(
                actual == (heads, head_dim),
                f"geometry of layer {layer} must begin with key/value heads and head dimension, "
                f"{(heads, head_dim)}, got {actual}; grouped query heads do not count",
            )

    def test_project_gives_heads(
        self, adapter: Adapter, run: Run, memory_layers: list[int]
    ) -> None:
        """`project` returns query ``[B, H * G, T, D]``, key and value ``[B, H, T, D]``."""
        for layer, call in chosen(run, memory_layers):
            query, key, value = projected(adapter, call)
            expected = list(call.keys.shape)
            for name, part in (("key", key), ("value", value)):
                expect(
                    list(part.shape) == expected,
                    f"{name} of project in layer {layer} must have shape {expected}, "
                    f"got {list(part.shape)}",
                )
            rows, heads, tokens, head_dim = expected
            expect(
                query.ndim == 4
                and (query.shape[0], query.shape[2], query.shape[3]) == (rows, tokens, head_dim)
                and query.shape[1] % heads == 0,
                f"query of project in layer {layer} must have shape "
                f"[{rows}, {heads} * G, {tokens}, {head_dim}], got {list(query.shape)}",
            )

    def test_values_are_the_models_own(
        self, adapter: Adapter, run: Run, memory_layers: list[int]
    ) -> None:
        """The value that `project` returns is the one in the model's cache."""
        for layer, call in chosen(run, memory_layers):
            value = projected(adapter, call)[2]
            hint = "project() returns query, key, value; look at weights, biases and layout."
            what = f"the value of layer {layer}"
            expect_close(what, value, call.values, within=1e-5, hint=hint)

    def test_rotated_keys_are_the_models_own(
        self, adapter: Adapter, run: Run, memory_layers: list[int]
    ) -> None:
        """`project` and `rotate` give the keys in the model's cache."""
        for layer, call in chosen(run, memory_layers):
            _, key, _ = rotated(adapter, call)
            hint = (
                "project() leaves positions out and has all else (biases, a norm); "
                "rotate() encodes the positions it is given, once."
            )
            what = f"the rotated key of layer {layer}"
            expect_close(what, key, call.keys, within=1e-5, hint=hint)

    def test_rotation_at_any_position(
        self, tiny: Any, adapter: Adapter, run: Run, memory_layers: list[int]
    ) -> None:
        """`rotate`, given `embeddings_at`, gives the keys that the model computes there."""
        for layer, call, expected in _at_last_position(tiny, run, memory_layers):
            own = of_layer(adapter, call)
            query, key, _ = projected(adapter, call)
            embeddings = own.embeddings_at(run.decoder, query, LAST)
            _, actual = own.rotate(query, key, embeddings)
            what = f"the key at position {int(LAST[0, 0])}, layer {layer}"
            hint = "embeddings_at() returns what rotate() takes for tokens at these positions."
            expect_close(what, actual, expected, within=1e-5, hint=hint)

    def test_keys_move_from_the_first_position(
        self, tiny: Any, adapter: Adapter, run: Run, memory_layers: list[int]
    ) -> None:
        """`at_positions` gives these keys, too, from those that `at_first_position` returned."""
        for layer, call, expected in _at_last_position(tiny, run, memory_layers):
            own = of_layer(adapter, call)
            _, key, _ = projected(adapter, call)
            stored = own.at_first_position(key, run.decoder)
            actual = own.at_positions(stored, run.decoder, LAST)
            what = f"a stored key, moved to position {int(LAST[0, 0])}, layer {layer}"
            hint = (
                "at_positions() takes keys as at_first_position() returns them: what that has "
                "multiplied them by, it must not multiply them by again."
            )
            expect_close(what, actual, expected, within=1e-5, hint=hint)

    def test_keys_at_the_first_position(
        self, tiny: Any, adapter: Adapter, run: Run, memory_layers: list[int]
    ) -> None:
        """`at_first_position` gives the keys that the model's attention computes at position 0."""
        start = torch.zeros(1, 1, dtype=torch.long)
        first = record(tiny, start + 1, position_ids=start)
        for layer, call in chosen(run, memory_layers):
            arguments = {**call.arguments, **places(first.calls[layer])}
            expected, _ = attention_keys(call.attention, layer, arguments)
            _, key, _ = projected(adapter, call)
            actual = of_layer(adapter, call).at_first_position(key, run.decoder)
            what = f"the key at the first position, layer {layer}"
            expect_close(what, actual, expected, within=1e-5, hint=FIRST)


def _at_last_position(
    tiny: Any, run: Run, memory_layers: list[int]
) -> Iterator[tuple[int, AttentionCall, Tensor]]:
    """Yield layers, their calls, and the keys that they have where all tokens stand at `LAST`."""
    there = record(tiny, torch.ones(1, 1, dtype=torch.long), position_ids=LAST[:, :1])
    for layer, call in chosen(run, memory_layers):
        arguments = {**call.arguments, **places(there.calls[layer])}
        expected, _ = attention_keys(call.attention, layer, arguments)
        yield layer, call, expected


def places(call: AttentionCall) -> dict[str, Any]:
    """Return arguments that say where tokens stand: all where the one of this call stands."""
    return {
        name: repeated(call.arguments[name], TOKENS)
        for name in ("position_embeddings", "position_ids")
        if name in call.arguments
    }


def _path(model: Any, module: object) -> str:
    names = {id(found): name for name, found in model.named_modules()}
    return f"model.{names[id(module)]}".rstrip(".") if id(module) in names else repr(type(module))
