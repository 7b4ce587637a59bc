"""The methods of an adapter in a row, compared with a whole layer of the plain model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fotmem.adapter import Adapter
from fotmem.testing.adapter.calls import IMPLEMENTATIONS, use_attention
from fotmem.testing.adapter.expect import expect, expect_close
from fotmem.testing.adapter.naive_attention import naive_attention
from fotmem.testing.adapter.recording import Run
from fotmem.testing.adapter.steps import (
    TOKENS,
    attended,
    chosen,
    composed,
    of_layer,
    plain_run,
    projected,
    rotated,
)


class LayerContract:
    """Several methods at a time, without memory."""

    def test_grouped_queries_share_the_right_head(
        self, adapter: Adapter, run: Run, memory_layers: list[int]
    ) -> None:
        """Query heads ``h * G`` to ``h * G + G - 1`` of `attend` attend to key/value head ``h``."""
        for layer, call in chosen(run, memory_layers):
            query, key, value = rotated(adapter, call)
            heads, groups = key.shape[1], query.shape[1] // key.shape[1]
            for head in range(heads):
                alone = torch.zeros_like(value)
                alone[:, head] = value[:, head]
                output = attended(adapter, call, query, key, alone)
                seen = output.unflatten(2, (heads * groups, -1)).abs().amax((0, 1, 3)) > 0
                actual = seen.nonzero()[:, 0].tolist()
                expected = list(range(head * groups, head * groups + groups))
                expect(
                    actual == expected,
                    f"key/value head {head} of layer {layer} must be attended to by query heads "
                    f"{expected} of attend(), and is by {actual}",
                )

    def test_attention_is_one_of_scaled_products(
        self, adapter: Adapter, run: Run, memory_layers: list[int]
    ) -> None:
        """A softmax of scaled inner products and `project_out` give the layer's output."""
        for layer, call in chosen(run, memory_layers):
            scale = of_layer(adapter, call).geometry(call.attention)[2]
            mask = call.arguments.get("attention_mask")
            output = naive_attention(*rotated(adapter, call), mask, scale)
            actual = of_layer(adapter, call).project_out(
                call.attention, output.to(call.output.dtype)
            )
            hint = (
                f"Is {scale:g}, the scale of geometry(), right? Is the query projected with all "
                "its weights, biases and norms, rotated once, and are its heads in groups? "
                "(Layers with sinks or soft-capped scores cannot be memory layers.)"
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
            for layer, call in chosen(plain_run(tiny, attention_mask=mask), memory_layers):
                actual = composed(adapter, call)
                hint = "attend() must pass on mask and kwargs; project_out() comes last."
                what = f"output of layer {layer} ({attention}, {padding} tokens of padding)"
                real = mask.bool()
                expect_close(what, actual[real], call.output[real], within=1e-5, hint=hint)

    def test_what_comes_in_is_not_changed(
        self, adapter: Adapter, run: Run, memory_layers: list[int]
    ) -> None:
        """No method writes into its arguments."""
        for layer, call in chosen(run, memory_layers):
            hidden = call.arguments["hidden_states"]
            embeddings: Any = call.arguments.get("position_embeddings")
            query, key, value = of_layer(adapter, call).project(call.attention, hidden)
            given = {"hidden_states": hidden, "query": query, "key": key, "value": value}
            before, were = copy.deepcopy(given), copy.deepcopy(embeddings)
            of_layer(adapter, call).at_first_position(key, run.decoder)
            of_layer(adapter, call).rotate(query, key, embeddings)
            of_layer(adapter, call).project_out(
                call.attention, attended(adapter, call, query, key, value)
            )
            for name, tensor in given.items():
                what = f"{name} of layer {layer} after the adapter's methods"
                hint = "They must not work in place: fotmem goes on using what it passed."
                expect_close(what, tensor, before[name], within=0, hint=hint)
            if embeddings is not None:
                same = all(map(torch.equal, embeddings, were))
                expect(same, "rotate() must not change the position_embeddings")

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_half_precision_stays_half_precision(
        self, tiny: Any, adapter: Adapter, memory_layers: list[int], dtype: torch.dtype
    ) -> None:
        """All results have the model's dtype, and are what the model computes."""
        run = plain_run(tiny.to(dtype))
        for layer, call in chosen(run, memory_layers):
            query, key, value = projected(adapter, call)
            expect_dtype(dtype, layer, {"query": query, "key": key, "value": value})
            turned = rotated(adapter, call)
            first = of_layer(adapter, call).at_first_position(key, run.decoder)
            expect_dtype(dtype, layer, {"rotated query": turned[0], "rotated key": turned[1]})
            expect_dtype(dtype, layer, {"key at the first position": first})
            output = attended(adapter, call, *turned)
            actual = of_layer(adapter, call).project_out(call.attention, output)
            expect_dtype(dtype, layer, {"output of attend": output, "projected output": actual})
            within = 4 * torch.finfo(dtype).eps * float(call.output.abs().max())
            expect_close(f"output of layer {layer}", actual, call.output, within=within)

    def test_adapters_have_no_state(
        self, tiny: Any, adapter: Adapter, run: Run, memory_layers: list[int]
    ) -> None:
        """Results for one model do not depend on calls for another model."""
        other = copy.deepcopy(tiny)
        for parameter in other.parameters():
            parameter.data.mul_(-1.1)
        for one, two in zip(
            chosen(run, memory_layers), chosen(plain_run(other), memory_layers), strict=True
        ):
            for layer, call in (one, two, one):
                actual = composed(adapter, call)
                hint = "The adapter was called for two models in turn, and must keep nothing."
                what = f"output of layer {layer}"
                expect_close(what, actual, call.output, within=1e-5, hint=hint)

    def test_dropout_in_training_is_the_models_own(
        self, tiny: Any, adapter: Adapter, memory_layers: list[int]
    ) -> None:
        """With the same random numbers, `attend` and `project_out` drop what the layer drops."""
        use_attention(tiny, "eager")
        run = plain_run(tiny)
        for layer, call in chosen(run, memory_layers):
            drop_half(call.attention)
            call.attention.train()
            with torch.random.fork_rng():
                torch.manual_seed(0)
                actual = composed(adapter, call)
                torch.manual_seed(0)
                expected, *_ = call.attention(**call.arguments)
            hint = "attend() takes the rate from the module, as its forward does."
            what = f"output of layer {layer} in training, with a dropout of 0.5"
            expect_close(what, actual, expected, within=1e-5, hint=hint)

    def test_gradients_are_the_models_own(
        self, tiny: Any, adapter: Adapter, memory_layers: list[int]
    ) -> None:
        """Gradients through the adapter's methods are those through the layer."""
        run = plain_run(tiny.requires_grad_(True), grad=True)
        for layer, call in chosen(run, memory_layers):
            parameters = dict(call.attention.named_parameters())
            actual = composed(adapter, call)
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


def drop_half(attention: nn.Module) -> None:
    """Set every dropout rate of an attention module and of its config to 0.5, whatever its name."""
    for module in (*attention.modules(), getattr(attention, "config", attention)):
        for name, value in vars(module).items():
            if name == "p" or ("dropout" in name and isinstance(value, float)):
                setattr(module, name, 0.5)


def expect_dtype(dtype: torch.dtype, layer: int, parts: dict[str, Tensor]) -> None:
    """Fail unless all parts have the model's dtype."""
    __tracebackhide__ = True
    for name, part in parts.items():
        expect(
            part.dtype == dtype,
            f"{name} of layer {layer} must be {dtype} as the model is, got {part.dtype}",
        )
