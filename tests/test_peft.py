"""A memory for a model with LoRA, attached to the PeftModel or to what it wraps."""

import copy
from typing import Any

import peft
import pytest
import torch

import fotmem
from fotmem.errors import AttachError, UnsupportedError
from tests import tiny
from tests.oracle import Oracle
from tests.tiny import (  # noqa: F401 - `one_thread` is a fixture
    LAYERS,
    WINDOW,
    difference,
    generate,
    one_thread,
)
from tests.traces import assert_untouched, snapshot

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is:FutureWarning")


def lora(model: Any) -> Any:
    torch.manual_seed(0)
    config = peft.LoraConfig(
        r=4,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "up_proj"],
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    return peft.get_peft_model(model, config).eval()


@pytest.mark.parametrize("to_base", [False, True])
def test_answers_equal_the_merged_models(to_base: bool) -> None:
    model = lora(tiny.llama())
    merged = copy.deepcopy(model).merge_and_unload()
    oracle = Oracle(merged, LAYERS, window=WINDOW)
    base = model.get_base_model()
    before, plain = snapshot(base.model), model(tiny.ids(9)).logits
    with fotmem.attach(
        base if to_base else model, layers=LAYERS, window=WINDOW, top_k=None
    ) as memory:
        assert torch.equal(model(tiny.ids(9)).logits, plain)
        for wrapped in (model, base):
            with pytest.raises(AttachError, match="has a memory already"):
                fotmem.attach(wrapped, layers=LAYERS)
        memory.read(tiny.ids(40))
        oracle.read(tiny.ids(40))
        question = tiny.ids(40, seed=1)
        assert difference(model(question).logits[0], oracle.forward(question)) <= 1e-4
        assert torch.equal(generate(model, question, 12)[0], oracle.greedy(question, 12))
    assert_untouched(base.model, before)
    assert torch.equal(model(tiny.ids(9)).logits, plain)


def test_lora_added_after_attaching() -> None:
    model = tiny.llama()
    memory = fotmem.attach(model, layers=LAYERS, window=WINDOW, top_k=None)
    wrapped = lora(model)
    oracle = Oracle(copy.deepcopy(wrapped).merge_and_unload(), LAYERS, window=WINDOW)
    for reader in (memory, oracle):
        reader.read(tiny.ids(40))
    question = tiny.ids(40, seed=1)
    assert difference(wrapped(question).logits[0], oracle.forward(question)) <= 1e-4
    memory.detach()
    assert "forward" not in vars(model.model)
    oracle = Oracle(copy.deepcopy(wrapped).merge_and_unload(), LAYERS, window=64)
    assert difference(wrapped(question).logits[0], oracle.forward(question)) <= 1e-4


def test_training_lora_with_an_empty_memory() -> None:
    one, other, ids = lora(tiny.llama()).train(), lora(tiny.llama()).train(), tiny.ids(WINDOW)
    memory = fotmem.attach(one, layers=LAYERS, window=WINDOW)
    for model in (one, other):
        model(ids, labels=ids).loss.backward()
    gradients = {name: value.grad for name, value in other.named_parameters()}
    for name, value in one.named_parameters():
        assert (value.grad is None) == (gradients[name] is None)
        assert value.grad is None or torch.equal(value.grad, gradients[name])
    memory.read(ids)
    with pytest.raises(UnsupportedError, match="backward"):
        one(ids, labels=ids).loss.backward()


TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj"]
IA3_TARGETS = {
    "target_modules": ["k_proj", "v_proj", "up_proj"],
    "feedforward_modules": ["up_proj"],
}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "LoRA": ("LoraConfig", {"init_lora_weights": False}),
    "DoRA": ("LoraConfig", {"init_lora_weights": False, "use_dora": True}),
    "rsLoRA": ("LoraConfig", {"init_lora_weights": False, "use_rslora": True}),
    "AdaLoRA": ("AdaLoraConfig", {"init_r": 4, "target_r": 2, "total_step": 10}),
    "LoHa": ("LoHaConfig", {"init_weights": False}),
    "LoKr": ("LoKrConfig", {"init_weights": False}),
    "OFT": ("OFTConfig", {"oft_block_size": 4, "init_weights": False}),
    "IA3": ("IA3Config", {"init_ia3_weights": False, **IA3_TARGETS}),
}
"""What can be merged: each of these changes layers, and leaves the forward functions alone."""


def tuned(name: str, options: dict[str, Any]) -> Any:
    config = getattr(peft, name)(**{"target_modules": TARGETS, "task_type": "CAUSAL_LM", **options})
    torch.manual_seed(0)
    model = peft.get_peft_model(tiny.llama(), config).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("method", METHODS)
def test_methods_that_change_layers(method: str) -> None:
    model, question = tuned(*METHODS[method]), tiny.ids(40, seed=1)
    short = question[:, :9]
    merged, plain = copy.deepcopy(model).merge_and_unload(), model(short).logits
    assert difference(plain, tiny.llama()(short).logits) > 0.1
    with (
        fotmem.attach(model, layers=LAYERS, window=WINDOW, top_k=None) as memory,
        fotmem.attach(merged, layers=LAYERS, window=WINDOW, top_k=None) as other,
    ):
        assert torch.equal(model(short).logits, plain)
        for reader in (memory, other):
            reader.read(tiny.ids(40))
        assert difference(model(question).logits, merged(question).logits) <= 1e-4
        assert torch.equal(generate(model, question, 12), generate(merged, question, 12))


PROMPTS: dict[str, tuple[str, dict[str, Any]]] = {
    "prompt tuning": ("PromptTuningConfig", {}),
    "P-tuning": ("PromptEncoderConfig", {"encoder_hidden_size": 16}),
}


@pytest.mark.parametrize("method", PROMPTS)
def test_methods_that_change_the_input(method: str) -> None:
    name, options = PROMPTS[method]
    config = getattr(peft, name)(task_type="CAUSAL_LM", num_virtual_tokens=4, **options)
    torch.manual_seed(0)
    model, question = peft.get_peft_model(tiny.llama(), config).eval(), tiny.ids(30, seed=1)
    base = model.get_base_model()
    tokens = base.get_input_embeddings()(question)
    whole = torch.cat([model.get_prompt(batch_size=1), tokens], 1)
    with fotmem.attach(model, layers=LAYERS, window=WINDOW) as memory:
        memory.read(tiny.ids(40))
        expected = base(inputs_embeds=whole).logits
        assert difference(model(question).logits, expected) <= 1e-5


def test_prompt_tuning() -> None:
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    model = peft.get_peft_model(tiny.llama(), config).eval()
    plain = model(tiny.ids(9)).logits
    before = snapshot(model.get_base_model())
    with fotmem.attach(model, layers=LAYERS, window=WINDOW) as memory:
        assert torch.equal(model(tiny.ids(9)).logits, plain)
        memory.read(tiny.ids(40))
        assert difference(model(tiny.ids(9)).logits, plain) > 0.01
    assert_untouched(model.get_base_model(), before)


@pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated")  # peft passes it
def test_prefix_tuning_is_refused() -> None:
    """It passes a filled cache to every call."""
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    model = peft.get_peft_model(tiny.llama(), config).eval()
    with (
        fotmem.attach(model, layers=LAYERS, window=WINDOW),
        pytest.raises(UnsupportedError, match=r"a cache filled without memory .*prefix tuning"),
    ):
        model(tiny.ids(9))


def test_adaption_prompts_are_refused() -> None:
    """They replace attention modules."""
    config = peft.AdaptionPromptConfig(adapter_len=4, adapter_layers=2, task_type="CAUSAL_LM")
    model = peft.get_peft_model(tiny.llama(), config).eval()
    before = snapshot(model)
    with pytest.raises(
        UnsupportedError, match="AdaptedAttention, PEFT's own attention, in layer 3"
    ):
        fotmem.attach(model, layers=LAYERS, window=WINDOW)
    assert_untouched_modules(model, before)
    with fotmem.attach(model, layers=[0, 1], window=WINDOW) as memory:  # not adapted
        memory.read(tiny.ids(40))


def assert_untouched_modules(model: Any, before: Any) -> None:
    assert {name: list(attributes) for name, attributes in snapshot(model).items()} == {
        name: list(attributes) for name, attributes in before.items()
    }
