"""Models that accelerate spreads over devices and disk, with hooks around every forward."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate
import pytest
import torch
from accelerate.hooks import remove_hook_from_submodules
from transformers import LlamaForCausalLM

import fotmem
from fotmem import Memory
from fotmem.memory.store_makers import execution_device
from tests import tiny
from tests.tiny import (  # noqa: F401 - `one_thread` is a fixture
    LAYERS,
    WINDOW,
    difference,
    generate,
    one_thread,
)
from tests.traces import snapshot

OFFLOADED = {
    "model.embed_tokens": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.layers.2": "cpu",
    "model.layers.3": "disk",
    "model.norm": "cpu",
    "model.rotary_emb": "cpu",
    "lm_head": "disk",
}


def attached(model: Any) -> Memory:
    memory = fotmem.attach(model, layers=LAYERS, window=WINDOW, top_k=None)
    memory.read(tiny.ids(40))
    return memory


def answers(model: Any) -> list[torch.Tensor]:
    return [model(tiny.ids(40)).logits, generate(model, tiny.ids(12), 20).float()]


def expected() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Answers of a model on one device, without memory and with it."""
    model = tiny.llama()
    plain = answers(model)
    attached(model)
    return plain, answers(model)


def assert_answers(model: Any, wanted: list[torch.Tensor]) -> None:
    for actual, answer in zip(answers(model), wanted, strict=True):
        assert difference(actual, answer) <= 1e-5


@pytest.fixture(params=["dispatch_model", "from_pretrained", "disk_offload"])
def spread(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    model = tiny.llama()
    if request.param == "dispatch_model":
        return accelerate.dispatch_model(
            model,
            OFFLOADED,
            main_device="cpu",
            offload_dir=tmp_path,
            skip_keys=model._skip_keys_device_placement,
        )
    if request.param == "disk_offload":
        return accelerate.disk_offload(model, tmp_path, execution_device=torch.device("cpu"))
    model.save_pretrained(tmp_path)
    return LlamaForCausalLM.from_pretrained(
        tmp_path, device_map=OFFLOADED, offload_folder=tmp_path / "offload"
    )


def test_offloaded_models(spread: Any) -> None:
    plain, with_memory = expected()
    assert any(parameter.device.type == "meta" for parameter in spread.parameters())
    before = snapshot(spread)
    assert_answers(spread, plain)
    memory = attached(spread)
    assert memory.store(1).device == torch.device("cpu")
    assert_answers(spread, with_memory)
    again = memory.reread(tiny.ids(3), passages=1)
    assert again.passages
    assert again.input_ids.device == torch.device("cpu")
    memory.detach()
    assert_answers(spread, plain)
    after = snapshot(spread)
    for name, were in before.items():
        assert after[name].keys() == were.keys()
        for key in ("forward", "_old_forward", "_hf_hook"):
            assert after[name].get(key) is were.get(key), (name, key)


def put_hooks_on(model: Any) -> None:
    accelerate.dispatch_model(model, {"": "cpu"}, main_device="cpu", force_hooks=True)


def test_hooks_added_after_attaching() -> None:
    plain, with_memory = expected()
    model: Any = tiny.llama()
    memory = attached(model)
    put_hooks_on(model)
    assert_answers(model, with_memory)
    memory.detach()
    assert hasattr(model.model, "_hf_hook")
    assert model.model._old_forward.__func__ is type(model.model).forward
    assert_answers(model, plain)
    remove_hook_from_submodules(model)
    assert_answers(model, plain)


def test_hooks_removed_while_attached() -> None:
    plain, with_memory = expected()
    model = tiny.llama()
    put_hooks_on(model)
    memory = attached(model)
    remove_hook_from_submodules(model)
    assert_answers(model, with_memory)
    memory.detach()
    assert_answers(model, plain)
    assert not any("_old_forward" in vars(module) for module in model.modules())


def test_a_forward_that_someone_else_replaced() -> None:
    plain, with_memory = expected()
    calls: list[object] = []
    model: Any = tiny.llama()
    own = model.model.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return own(*args, **kwargs)

    model.model.forward = counted
    memory = attached(model)
    assert_answers(model, with_memory)
    assert calls
    memory.detach()
    assert model.model.forward is counted
    assert_answers(model, plain)


def test_stores_live_where_the_layer_computes() -> None:
    """Offloaded weights lie elsewhere (here: nowhere) until accelerate's hook fetches them."""
    model: Any = tiny.llama()
    attention = model.to("meta").model.layers[1].self_attn
    attention.k_proj._hf_hook = SimpleNamespace(execution_device="cuda:0")
    assert execution_device(attention) == torch.device("cuda:0")
