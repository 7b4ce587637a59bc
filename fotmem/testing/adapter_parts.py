"""What each method of an adapter gives, against what the model's own modules do."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from fotmem.adapter import Adapter
from fotmem.testing.calls import IMPLEMENTATIONS, draw, use_attention
from fotmem.testing.expect import expect, expect_close
from fotmem.testing.naive import naive_attention
from fotmem.testing.recording import AttentionCall, Run, attention_keys, record
from fotmem.testing.reference import repeated

TOKENS = 9


class PartsContract:
    """One method at a time, outside of any memory."""

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

    def test_geometry_is_that_of_the_keys(
        self, adapter: Adapter, run: Run, memory_layers: list[int]
    ) -> None:
        """`geometry` begins with the heads and the dimension of what the cache holds."""
        for layer, call in _chosen(run, memory_layers):
            _, heads, _, head_dim = call.keys.shape
            actual = tuple(adapter.geometry(call.attention)[:2])
            expect(
                actual == (heads, head_dim),
                f"geometry of layer {layer} must begin with key/value heads and head dimension, "
                f"{(heads, head_dim)}, got {actual}; grouped query heads do not count",
            )

    def test_project_gives_heads(
        self, adapter: Adapter, run: Run, memory_layers: list[int]
    ) -> None:
        """`project` returns query ``[B, H * G, T, D]``, key and value ``[B, H, T, D]``."""
        for layer, call in _chosen(run, memory_layers):
            query, key, value = adapter.project(call.attention, call.arguments["hidden_states"])
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
        """The value of `project` is what the model puts in its cache."""
        for layer, call in _chosen(run, memory_layers):
            value = adapter.project(call.attention, call.arguments["hidden_states"])[2]
            hint = "project() returns query, key, value; look at weights, biases and layout."
            what = f"the value of layer {layer}"
            expect_close(what, value, call.values, within=1e-5, hint=hint)

    def test_rotated_keys_are_the_models_own(
        self, adapter: Adapter, run: Run, memory_layers: list[int]
    ) -> None:
        """`project` and `rotate` give the keys that the model puts in its cache."""
        for layer, call in _chosen(run, memory_layers):
            _, key, _ = _rotated(adapter, call)
            hint = (
                "project() leaves positions out and has all else (biases, a norm); "
                "rotate() encodes the positions it is given, once."
            )
            what = f"the rotated key of layer {layer}"
            expect_close(what, key, call.keys, within=1e-5, hint=hint)

    def test_keys_at_the_first_position(
        self, tiny: Any, adapter: Adapter, run: Run, memory_layers: list[int]
    ) -> None:
        """`at_first_position` gives what the model's own attention makes of position 0."""
        start = torch.zeros(1, 1, dtype=torch.long)
        first = record(tiny, start + 1, position_ids=start)
        for layer, call in _chosen(run, memory_layers):
            places: dict[str, Any] = {
                name: repeated(first.calls[layer].arguments[name], TOKENS)
                for name in ("position_embeddings", "position_ids")
                if name in call.arguments
            }
            arguments = {**call.arguments, **places}
            expected, _ = attention_keys(call.attention, layer, arguments)
            _, key, _ = adapter.project(call.attention, call.arguments["hidden_states"])
            actual = adapter.at_first_position(key, run.decoder)
            hint = "With RoPE, the key as it is, times the attention factor of the RoPE, once."
            what = f"the key at the first position, layer {layer}"
            expect_close(what, actual, expected, within=1e-5, hint=hint)

    def test_grouped_queries_share_the_right_head(
        self, adapter: Adapter, run: Run, memory_layers: list[int]
    ) -> None:
        """In `attend`, query heads ``h * G`` to ``h * G + G - 1`` look at key/value head ``h``."""
        for layer, call in _chosen(run, memory_layers):
            query, key, value = _rotated(adapter, call)
            heads, groups = key.shape[1], query.shape[1] // key.shape[1]
            for head in range(heads):
                alone = torch.zeros_like(value)
                alone[:, head] = value[:, head]
                output = _attend(adapter, call, query, key, alone)
                seen = output.unflatten(2, (heads * groups, -1)).abs().amax((0, 1, 3)) > 0
                actual = seen.nonzero()[:, 0].tolist()
                expected = list(range(head * groups, head * groups + groups))
                expect(
                    actual == expected,
                    f"key/value head {head} of layer {layer} must be seen by query heads "
                    f"{expected} of attend(), and is seen by {actual}",
                )

    def test_attention_is_one_of_scaled_products(
        self, adapter: Adapter, run: Run, memory_layers: list[int]
    ) -> None:
        """Softmax of scaled inner products, in float64, then `project_out`: the model's output."""
        for layer, call in _chosen(run, memory_layers):
            scale = adapter.geometry(call.attention)[2]
            mask = call.arguments.get("attention_mask")
            output = naive_attention(*_rotated(adapter, call), mask, scale)
            actual = adapter.project_out(call.attention, output.to(call.output.dtype))
            hint = (
                f"Is {scale:g}, the scale of geometry(), right? Is the query projected with all "
                "its weights, biases and norms, rotated once, and are its heads in groups? (What "
                "has sinks or soft-capped scores cannot be a memory layer: not one of `layers`.)"
            )
            what = f"attention of layer {layer} from project, rotate, geometry and project_out"
            expect_close(what, actual, call.output, within=1e-4, hint=hint)

    @pytest.mark.parametrize("attention", IMPLEMENTATIONS)
    def test_parts_compose_to_the_models_own_layer(
        self, tiny: Any, adapter: Adapter, memory_layers: list[int], attention: str
    ) -> None:
        """`project`, `rotate`, `attend` and `project_out` give a layer's output."""
        use_attention(tiny, attention)
        mask = torch.ones(2, TOKENS, dtype=torch.long)
        for padding in (0, 3):
            mask[1, :padding] = 0
            for layer, call in _chosen(plain_run(tiny, attention_mask=mask), memory_layers):
                output = _attend(adapter, call, *_rotated(adapter, call))
                actual = adapter.project_out(call.attention, output)
                hint = "attend() must pass on mask and kwargs; project_out() comes last."
                what = f"output of layer {layer} ({attention}, {padding} tokens of padding)"
                real = mask.bool()
                expect_close(what, actual[real], call.output[real], within=1e-5, hint=hint)

    def test_what_comes_in_is_not_changed(
        self, adapter: Adapter, run: Run, memory_layers: list[int]
    ) -> None:
        """No method writes into its arguments."""
        for layer, call in _chosen(run, memory_layers):
            hidden = call.arguments["hidden_states"]
            embeddings = call.arguments.get("position_embeddings")
            query, key, value = adapter.project(call.attention, hidden)
            given = {"hidden_states": hidden, "query": query, "key": key, "value": value}
            before = copy.deepcopy((given, embeddings))
            adapter.at_first_position(key, run.decoder)
            adapter.rotate(query, key, embeddings)
            adapter.project_out(call.attention, _attend(adapter, call, query, key, value))
            for name, tensor in given.items():
                what = f"{name} of layer {layer} after the adapter's methods"
                hint = "They must not work in place: fotmem goes on using what it passed."
                expect_close(what, tensor, before[0][name], within=0, hint=hint)
            for one, other in zip(embeddings or (), before[1] or (), strict=True):
                expect(torch.equal(one, other), "rotate() must not change the position_embeddings")

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_half_precision_stays_half_precision(
        self, tiny: Any, adapter: Adapter, memory_layers: list[int], dtype: torch.dtype
    ) -> None:
        """Everything comes in the model's dtype, and is what the model computes."""
        run = plain_run(tiny.to(dtype))
        for layer, call in _chosen(run, memory_layers):
            query, key, value = adapter.project(call.attention, call.arguments["hidden_states"])
            expect_dtype(dtype, layer, {"query": query, "key": key, "value": value})
            rotated = _rotated(adapter, call)
            first = adapter.at_first_position(key, run.decoder)
            expect_dtype(dtype, layer, {"rotated query": rotated[0], "rotated key": rotated[1]})
            expect_dtype(dtype, layer, {"key at the first position": first})
            output = _attend(adapter, call, *rotated)
            actual = adapter.project_out(call.attention, output)
            expect_dtype(dtype, layer, {"output of attend": output, "projected output": actual})
            within = 4 * torch.finfo(dtype).eps * float(call.output.abs().max())
            expect_close(f"output of layer {layer}", actual, call.output, within=within)

    def test_adapters_have_no_state(
        self, tiny: Any, adapter: Adapter, run: Run, memory_layers: list[int]
    ) -> None:
        """What it says of one model does not depend on another one that it was asked about."""
        other = copy.deepcopy(tiny)
        for parameter in other.parameters():
            parameter.data.mul_(-1.1)
        for one, two in zip(
            _chosen(run, memory_layers), _chosen(plain_run(other), memory_layers), strict=True
        ):
            for layer, call in (one, two, one):
                output = _attend(adapter, call, *_rotated(adapter, call))
                actual = adapter.project_out(call.attention, output)
                hint = "The adapter was asked about two models in turn, and must keep nothing."
                what = f"output of layer {layer}"
                expect_close(what, actual, call.output, within=1e-5, hint=hint)

    def test_gradients_are_the_models_own(
        self, tiny: Any, adapter: Adapter, memory_layers: list[int]
    ) -> None:
        """Training through the adapter's methods is training the layer."""
        run = plain_run(tiny.requires_grad_(True), grad=True)
        for layer, call in _chosen(run, memory_layers):
            parameters = dict(call.attention.named_parameters())
            output = _attend(adapter, call, *_rotated(adapter, call))
            actual = adapter.project_out(call.attention, output)
            expect(actual.requires_grad, f"the output of layer {layer} must have a gradient")
            sums = [part.square().sum() for part in (actual, call.output)]
            mine, theirs = (
                torch.autograd.grad(
                    total, list(parameters.values()), retain_graph=True, allow_unused=True
                )
                for total in sums
            )
            for name, one, two in zip(parameters, mine, theirs, strict=True):
                what = f"the gradient of {name} in layer {layer}"
                expect((one is None) == (two is None), f"{what}: it is missing on one side")
                if one is not None and two is not None:
                    expect_close(what, one, two, within=1e-4 * (1 + float(two.abs().max())))


def plain_run(model: Any, *, grad: bool = False, **options: Any) -> Run:
    """Call a plain model with two rows, the second one further on."""
    tokens = draw(model, 2 * TOKENS).reshape(2, TOKENS)
    positions = torch.arange(TOKENS) + torch.tensor([[0], [5]])
    with torch.set_grad_enabled(grad):
        return record(model, tokens, position_ids=positions, **options)


def expect_dtype(dtype: torch.dtype, layer: int, parts: dict[str, Tensor]) -> None:
    """Fail unless all parts have the model's dtype."""
    __tracebackhide__ = True
    for name, part in parts.items():
        expect(
            part.dtype == dtype,
            f"{name} of layer {layer} must be {dtype} as the model is, got {part.dtype}",
        )


def _chosen(run: Run, layers: Sequence[int]) -> list[tuple[int, AttentionCall]]:
    return [(layer, run.calls[layer]) for layer in layers]


def _rotated(adapter: Adapter, call: AttentionCall) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = adapter.project(call.attention, call.arguments["hidden_states"])
    query, key = adapter.rotate(query, key, call.arguments.get("position_embeddings"))
    return query, key, value


def _attend(
    adapter: Adapter, call: AttentionCall, query: Tensor, key: Tensor, value: Tensor
) -> Tensor:
    given = ("hidden_states", "position_embeddings", "attention_mask")
    rest = {name: value for name, value in call.arguments.items() if name not in given}
    mask = call.arguments.get("attention_mask")
    return adapter.attend(call.attention, query, key, value, mask, **rest)


def _path(model: Any, module: object) -> str:
    names = {id(found): name for name, found in model.named_modules()}
    return f"model.{names[id(module)]}".rstrip(".") if id(module) in names else repr(type(module))
