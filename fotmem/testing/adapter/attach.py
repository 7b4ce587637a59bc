"""Attaching a memory and detaching it: nothing of it stays on the model."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import StaticCache

from fotmem.errors import AttachError, FotmemError, LayerError, UnsupportedError
from fotmem.memory.attachment import attach
from fotmem.memory.memory import Memory
from fotmem.testing.adapter.calls import WINDOW, attached, cached, draw, generate
from fotmem.testing.adapter.expect import expect, expect_close

Trace = dict[str, dict[str, Any]]


class AttachContract:
    """Detaching restores the model; attaching refuses what cannot work."""

    def test_detaching_leaves_no_trace(self, tiny: Any, memory_layers: list[int]) -> None:
        """Modules, hooks, forward functions, parameters and outputs are as before."""
        question = draw(tiny, 30)[None]
        plain, generated = tiny(question).logits, generate(tiny, question, {})
        before, weights = snapshot(tiny), copies(tiny)
        memory = attached(tiny, memory_layers)
        use(tiny, memory)
        memory.detach()
        expect_untouched(tiny, before, weights)
        expect_close("logits after detach", tiny(question).logits, plain, within=0)
        expect(
            torch.equal(generate(tiny, question, {}), generated),
            "generated tokens after detach differ from those before",
        )

    def test_detaching_leaves_no_trace_after_an_error(
        self, tiny: Any, memory_layers: list[int]
    ) -> None:
        """The context manager also detaches when the block raises."""
        tiny(draw(tiny, 9)[None])  # LongRoPE notes something on the model in its first call
        before, weights = snapshot(tiny), copies(tiny)

        def fail() -> None:
            with attached(tiny, memory_layers) as memory:
                use(tiny, memory)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        expect_untouched(tiny, before, weights)

    def test_a_memory_adds_nothing_to_the_state_dict(
        self, tiny: Any, memory_layers: list[int]
    ) -> None:
        """A model that is saved while a memory is attached is the plain model."""
        weights, config = copies(tiny), tiny.config.to_dict()
        with attached(tiny, memory_layers) as memory:
            use(tiny, memory)
            expect_same_weights(tiny, weights)
            expect(tiny.config.to_dict() == config, "attaching must not change the model's config")

    def test_attaching_twice_is_refused(self, tiny: Any, memory_layers: list[int]) -> None:
        """The error is an `AttachError`; the attached memory goes on working."""
        with attached(tiny, memory_layers) as memory:
            refuses(AttachError, lambda: attached(tiny, memory_layers[:1]))
            use(tiny, memory)
        with attached(tiny, memory_layers[:1]) as memory:
            use(tiny, memory)

    def test_a_deep_copy_is_a_plain_model(self, tiny: Any, memory_layers: list[int]) -> None:
        """The copy has no memory, and can get one of its own."""
        question = draw(tiny, 12)[None]
        plain = tiny(question).logits
        with attached(tiny, memory_layers) as memory:
            use(tiny, memory)
            twin = copy.deepcopy(tiny)
            expect_close("logits of a deep copy", twin(question).logits, plain, within=1e-5)
            length = len(memory)
            with attached(twin, memory_layers) as other:
                other.read(draw(twin, 40))
                mine, theirs = tiny(question).logits, twin(question).logits
                expect_close("logits of a deep copy with a memory", theirs, mine, within=1e-4)
                other.read(draw(twin, 5))
            expect(len(memory) == length, "reading into a copy's memory must not touch this one")

    def test_layers_that_are_not_there_are_refused(
        self, tiny: Any, memory_layers: list[int]
    ) -> None:
        """The error is a `LayerError`; the model stays plain."""
        before, weights = snapshot(tiny), copies(tiny)
        beyond = tiny.config.get_text_config().num_hidden_layers
        for layers in ([beyond], [-1], []):
            refuses(LayerError, functools.partial(attached, tiny, layers))
        with attached(tiny, memory_layers) as memory:
            refuses(LayerError, lambda: memory.store(beyond))
        expect_untouched(tiny, before, weights)

    def test_what_cannot_work_is_refused(self, tiny: Any, memory_layers: list[int]) -> None:
        """The error is an `UnsupportedError`, raised before anything is computed."""
        ids = draw(tiny, 9)[None]
        static = StaticCache(config=tiny.config, max_cache_len=30)
        four = torch.ones(1, 1, 9, 9)
        packed = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])
        with attached(tiny, memory_layers) as memory:
            memory.read(draw(tiny, 20))
            refuses(UnsupportedError, lambda: tiny(ids, **cached(tiny, static)))
            refuses(UnsupportedError, lambda: tiny(ids, attention_mask=four))
            refuses(UnsupportedError, lambda: tiny(ids, position_ids=packed))
            tiny.requires_grad_(True)
            loss = tiny(ids, labels=ids).loss
            refuses(UnsupportedError, loss.backward)

    def test_the_next_memory_is_as_good(self, tiny: Any, memory_layers: list[int]) -> None:
        """A second memory, with another window and other layers, starts empty."""
        question = draw(tiny, 12)[None]
        with attached(tiny, memory_layers) as memory:
            memory.read(draw(tiny, 40))
            first = tiny(question).logits
        with attach(tiny, layers=memory_layers[-1:], window=WINDOW // 2) as memory:
            use(tiny, memory)
        with attached(tiny, memory_layers) as memory:
            memory.read(draw(tiny, 40))
            expect_close("logits of the third memory", tiny(question).logits, first, within=1e-5)


def use(model: Any, memory: Memory) -> None:
    """Read, ask, generate and explain with a memory."""
    memory.read(draw(model, 40))
    model(draw(model, 40)[None])
    generate(model, draw(model, 9)[None], {"num_beams": 2})
    memory.explain()


def refuses(kind: type[FotmemError], call: Callable[[], object]) -> None:
    """Expect that a call raises this error."""
    __tracebackhide__ = True
    try:
        call()
    except kind as error:
        expect(str(error) != "", f"{kind.__name__} must say what was expected, what came, the cure")
        return
    except Exception as error:
        raise AssertionError(f"expected a {kind.__name__}, got {error!r}") from error
    raise AssertionError(f"expected a {kind.__name__}, and nothing was raised")


def snapshot(model: nn.Module) -> Trace:
    """Return all attributes of every module, hooks and forward functions included."""
    return {
        name: {
            key: dict(value) if isinstance(value, dict) else value
            for key, value in vars(module).items()
        }
        for name, module in model.named_modules()
    }


def copies(model: nn.Module) -> dict[str, Tensor]:
    """Copy all parameters and buffers."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def expect_untouched(model: nn.Module, before: Trace, weights: dict[str, Tensor]) -> None:
    """Expect that every module is as in `snapshot` and `copies`."""
    __tracebackhide__ = True
    after = snapshot(model)
    expect(after.keys() == before.keys(), _changed("modules", before, after))
    for name, were in before.items():
        now, where = after[name], name or "the model"
        expect(now.keys() == were.keys(), _changed(f"attributes of {where}", were, now))
        for key, value in were.items():
            what = f"attribute {key} of {where}"
            if not isinstance(value, dict):
                same = now[key] is value or bool(now[key] == value)
                expect(same, f"{what} was {value!r} and is {now[key]!r} after detach")
                continue
            expect(now[key].keys() == value.keys(), _changed(what, value, now[key]))
            for inner in value:
                expect(now[key][inner] is value[inner], f"{what}: {inner} was replaced")
    expect_same_weights(model, weights)


def expect_same_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Expect the state dict that `copies` returned."""
    __tracebackhide__ = True
    now = model.state_dict()
    expect(now.keys() == weights.keys(), _changed("the state dict", weights, now))
    for name, tensor in weights.items():
        expect(torch.equal(now[name], tensor), f"{name} in the state dict has changed")


def _changed(what: str, before: Any, after: Any) -> str:
    gone, come = sorted(set(before) - set(after)), sorted(set(after) - set(before))
    return f"{what} must be as before; new: {come}, gone: {gone}"
