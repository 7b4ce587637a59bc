"""Copies, pickles and graphs of an attached model: the plain model, or refused by name."""

import copy
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fotmem
from fotmem.crossbatch import Crossbatch
from fotmem.errors import UnsupportedError
from tests import tiny
from tests.tiny import (  # noqa: F401 - `one_thread` is a fixture
    LAYERS,
    WINDOW,
    generate,
    one_thread,
)
from tests.traces import assert_untouched, snapshot

ELSEWHERE = """
import sys
sys.modules["fotmem"] = None  # not installed
import torch
model, ids, logits = torch.load(sys.argv[1], weights_only=False)
assert torch.equal(model(ids).logits, logits)
assert not any("forward" in vars(module) for module in model.modules())
"""


def attached(model: Any) -> Any:
    memory = fotmem.attach(model, layers=LAYERS, window=WINDOW)
    memory.read(tiny.ids(40))
    model(tiny.ids(40))
    return memory


def through_pickle(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model))


def through_torch(model: Any) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": through_pickle,
    "old pickle": lambda model: pickle.loads(pickle.dumps(model, protocol=2)),
    "torch.save": through_torch,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("attach", [attached, Crossbatch], ids=["memory", "crossbatch"])
def test_a_copy_is_the_plain_model(copied: Any, attach: Any) -> None:
    model, question = tiny.llama(mem_layers=list(LAYERS)), tiny.ids(9)
    before, plain, tokens = snapshot(model), model(question).logits, generate(model, question, 5)
    with attach(model):
        twin = copied(model)
        assert [list(vars(module)) for module in twin.modules()] == [
            list(attributes) for attributes in before.values()
        ]
        assert torch.equal(twin(question).logits, plain)
        assert torch.equal(generate(twin, question, 5), tokens)
        assert generate(twin, question, 4, prompt_lookup_num_tokens=2).shape == (1, 13)
        with attached(twin) as other:  # which it can have, and give back
            assert len(other) == 40
            assert torch.equal(copied(twin)(question).logits, plain)
    assert_untouched(model, before)
    assert torch.equal(twin(question).logits, plain)


class Doubled:
    """A replacement of a decoder's forward by other code."""

    def __init__(self, decoder: nn.Module) -> None:
        self.decoder = decoder

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = type(self.decoder).forward(self.decoder, *args, **kwargs)
        output.last_hidden_state = 2 * output.last_hidden_state
        return output


def test_a_forward_that_was_replaced_before_is_copied() -> None:
    model, question = tiny.llama(), tiny.ids(9)
    plain = model(question).logits
    decoder: Any = model.model
    decoder.forward = Doubled(decoder)
    with attached(model) as memory:
        twin = through_pickle(model)
        memory.clear()
        for doubled in (model, twin):
            assert torch.allclose(doubled(question).logits, 2 * plain)
    assert isinstance(vars(decoder)["forward"], Doubled)


@pytest.mark.thorough
def test_a_pickled_model_loads_without_fotmem(tmp_path: Path) -> None:
    model, file = tiny.llama(), tmp_path / "model.pt"
    question, plain = tiny.ids(9), model(tiny.ids(9)).logits
    with attached(model):
        torch.save((model, question, plain), file)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", ELSEWHERE, str(file)], env=environment, check=True)


def test_a_memory_and_its_caches_are_not_pickled() -> None:
    model = tiny.llama()
    with attached(model) as memory:
        out = model(tiny.ids(40))
        for thing in (memory, out[1], out, [memory.attached_model.contents, memory]):
            with pytest.raises(UnsupportedError, match=r"^pickle .* of a Memory, .* save the mem"):
                pickle.dumps(thing)
            with pytest.raises(UnsupportedError, match=r"^pickle"):
                torch.save(thing, io.BytesIO())
        assert len(copy.deepcopy(out[1]).store(1)) == 32


class LogitsOf(nn.Module):
    """A model that tracing can take: tensors come out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Any) -> Any:
        return self.model(ids, use_cache=False).logits


def traced(model: nn.Module, ids: Any) -> Any:
    return torch.jit.trace(LogitsOf(model), (ids,))


def exported(model: nn.Module, ids: Any) -> Any:
    return torch.export.export(LogitsOf(model), (ids,), strict=False)


def to_onnx(model: nn.Module, ids: Any) -> Any:
    file: Any = io.BytesIO()
    return torch.onnx.export(LogitsOf(model), (ids,), file, dynamo=False)


def to_graph(model: nn.Module, ids: Any) -> Any:
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(LogitsOf(model))(ids)


def over_rows(model: nn.Module, ids: Any) -> Any:
    return torch.func.vmap(lambda row: LogitsOf(model)(row[None]))(ids)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's, of what is asked here
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*legacy TorchScript-based:UserWarning")
@pytest.mark.parametrize(
    ("graph", "feature"),
    [
        (traced, r"torch\.jit\.trace"),
        (exported, r"torch\.export"),
        (to_onnx, r"torch\.jit\.trace \(or torch\.onnx\.export\)"),
        (to_graph, r"torch\.fx"),
        (over_rows, r"torch\.func\.vmap"),
    ],
)
def test_tracing_is_refused(graph: Any, feature: str) -> None:
    """A traced graph would keep the memory of the time of tracing."""
    model, ids = tiny.llama(), tiny.ids(9)
    with attached(model) as memory:
        expected = model(ids).logits
        with pytest.raises(UnsupportedError, match=rf"^{feature}.*; call memory\.detach\(\) first"):
            graph(model, ids)
        assert torch.equal(model(ids).logits, expected)
        assert len(memory) == 40


def test_strict_export_says_why_it_fails() -> None:
    model = tiny.llama()
    with attached(model), pytest.raises(Exception, match="a fotmem memory is attached; call memor"):
        torch.export.export(LogitsOf(model), (tiny.ids(9),), strict=True)
