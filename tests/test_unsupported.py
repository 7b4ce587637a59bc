"""What cannot work with a memory is refused by name; training with an empty memory works."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import DynamicCache, QuantizedCache, StaticCache

import fotmem
from fotmem import Memory
from fotmem.errors import (
    AttachError,
    InputError,
    LayerError,
    OptionError,
    ShapeError,
    UnsupportedError,
)
from tests import tiny
from tests.tiny import (  # noqa: F401 - `one_thread` is a fixture
    LAYERS,
    WINDOW,
    difference,
    generate,
    one_thread,
)


def attached(**options: Any) -> tuple[Any, Memory]:
    model = tiny.llama(**options)
    return model, fotmem.attach(model, layers=LAYERS, window=WINDOW)


def never(*args: object) -> None:
    raise AssertionError("a token was computed")


OFFLOADING = pytest.mark.skipif(
    bool(torch.version.cuda) and not torch.cuda.is_available(),
    reason="transformers makes no offloaded cache where torch is built for a GPU that is missing",
)
QUANTIZED = {"cache_implementation": "quantized", "cache_config": {"backend": "fp8"}}


@pytest.mark.parametrize(
    "feature, options",
    [
        ("assisted generation", {"prompt_lookup_num_tokens": 2}),
        ("assisted generation", {"assistant_model": tiny.llama(seed=1)}),
        ("StaticCache", {"cache_implementation": "static"}),
        pytest.param("an offloaded cache", {"cache_implementation": "offloaded"}, marks=OFFLOADING),
        pytest.param(
            "an offloaded cache", {"cache_implementation": "offloaded_static"}, marks=OFFLOADING
        ),
        (
            "QuantizedCache",
            {"cache_implementation": "quantized", "cache_config": {"backend": "fp8"}},
        ),
        ("continuous batching", {"cache_implementation": "paged"}),
        ("output_attentions", {"output_attentions": True, "return_dict_in_generate": True}),
    ],
)
@pytest.mark.parametrize("padded", [False, True])
def test_generate_refuses_before_any_token(
    feature: str, options: dict[str, Any], padded: bool
) -> None:
    model, _ = attached(attention="eager")  # sdpa with output_attentions: transformers refuses
    model.model.layers[0].register_forward_pre_hook(never)
    ids, mask = tiny.padded([tiny.ids(9)])
    if padded:
        mask[0, :2] = 0
    with pytest.raises(UnsupportedError, match=f"^{feature}.* cannot be used while a memory is"):
        generate(model, ids, 4, attention_mask=mask, **options)


def test_generate_batch_is_refused() -> None:
    model, memory = attached()
    with pytest.raises(UnsupportedError, match=r"^continuous batching"):
        model.generate_batch([[5, 6, 7]], max_new_tokens=2)
    memory.detach()
    assert "init_continuous_batching" not in vars(model)
    options = {"prompt_lookup_num_tokens": 2}
    assert generate(model, tiny.ids(9), 4, **options).shape == (1, 13)


def test_an_assistant_with_memory_is_refused() -> None:
    model, _ = attached()
    with pytest.raises(UnsupportedError, match=r"^taking tokens back from the cache"):
        generate(tiny.llama(seed=1), tiny.ids(9), 4, assistant_model=model)


@pytest.mark.parametrize(
    "make, feature",
    [
        (lambda config: StaticCache(config=config, max_cache_len=30), "StaticCache"),
        (lambda config: QuantizedCache("fp8", config=config), "QuantizedCache"),
        pytest.param(
            lambda config: DynamicCache(config=config, offloading=True),
            "an offloaded cache",
            marks=OFFLOADING,
        ),
        (lambda config: ((torch.zeros(1), torch.zeros(1)),) * 4, "tuple"),
    ],
)
def test_forward_refuses_other_caches(make: Callable[[Any], object], feature: str) -> None:
    model, _ = attached()
    with pytest.raises(UnsupportedError, match=f"^{feature} cannot be used"):
        model(tiny.ids(9), **tiny.cached(make(model.config)))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"attention_mask": torch.ones(1, 1, 9, 9)}, "a 4D attention mask"),
        ({"attention_mask": {"full_attention": torch.ones(1, 1, 9, 9)}}, "a block attention mask"),
        ({"position_ids": torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])}, "packed sequences"),
        ({"position_ids": torch.arange(0, 18, 2)[None]}, "packed sequences"),
        ({"output_attentions": True}, "output_attentions"),
    ],
)
def test_forward_refuses(options: dict[str, Any], message: str) -> None:
    model, _ = attached()
    with pytest.raises(UnsupportedError, match=message):
        model(tiny.ids(9), **options)


def test_positions_may_begin_anywhere() -> None:
    model, _ = attached()
    shifted = model(tiny.ids(9), position_ids=torch.arange(20, 29)[None])
    assert torch.equal(shifted.logits, model(tiny.ids(9)).logits)  # they count from the window


@pytest.mark.parametrize("name", ["flash_attention_2", "flex_attention", "paged|sdpa"])
def test_other_attention_kernels_are_refused(name: str) -> None:
    model, memory = attached()
    model.config._attn_implementation_internal = name
    with pytest.raises(UnsupportedError, match=rf"attention implementation '{name[:4]}.*sdpa"):
        model(tiny.ids(9))
    memory.detach()
    with pytest.raises(UnsupportedError, match=rf"attention implementation '{name[:4]}.*sdpa"):
        fotmem.attach(model, layers=LAYERS)
    assert "forward" not in vars(model.model)


def test_wrong_input_shapes_are_refused() -> None:
    model, _ = attached()
    with pytest.raises(ShapeError, match=r"input_ids must have shape \[B, tokens\], got \[9\]"):
        model(tiny.ids(9)[0])
    with pytest.raises(ShapeError, match=r"attention_mask .* \[B=1, at least 9\], got \[1, 8\]"):
        model(tiny.ids(9), attention_mask=torch.ones(1, 8))
    with pytest.raises(ShapeError, match=r"attention_mask .* \[B=1, at least 9\], got \[2, 9\]"):
        model(tiny.ids(9), attention_mask=torch.ones(2, 9))
    for options in ({}, {"input_ids": tiny.ids(9), "inputs_embeds": torch.zeros(1, 9, 32)}):
        with pytest.raises(ValueError, match="exactly one of input_ids or inputs_embeds"):
            model(**options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"input_ids": [[1, 2]]}, InputError, "input_ids must be a tensor .* got list"),
        ({"input_ids": torch.zeros(1, 0).long()}, ShapeError, r"at least one row .* got \[1, 0\]"),
        ({"input_ids": torch.zeros(0, 5).long()}, ShapeError, r"at least one row .* got \[0, 5\]"),
        ({"position_ids": "x"}, InputError, "position_ids must be a tensor, got str"),
        ({"position_ids": torch.arange(4)[None]}, ShapeError, r"\[1 or B=1, 9\], got \[1, 4\]"),
        ({"position_ids": torch.arange(9)}, ShapeError, r"\[1 or B=1, 9\], got \[9\]"),
        ({"attention_mask": [[1] * 9]}, UnsupportedError, "^list as a mask .* a tensor of shape"),
    ],
)
def test_wrong_inputs_are_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    model, _ = attached()
    with pytest.raises(error, match=message):
        model(**{"input_ids": tiny.ids(9), **options})


def test_wrong_rows_of_a_cache_are_refused() -> None:
    model, _ = attached()
    cache = model(tiny.ids(40))[1]
    for row in ("x", 1.5, True, None):
        with pytest.raises(OptionError, match=f"row must be an integer, got {row!r}"):
            cache.store(1, row)
    for row in (1, -1):
        with pytest.raises(
            LayerError, match=rf"row {row} is not in .*1 rows; pass one from 0 to 0"
        ):
            cache.store(1, row)


def test_the_cache_of_a_failed_call_is_refused() -> None:
    """Some of its layers may have more tokens than others."""
    model, _ = attached()
    cache = model(tiny.ids(9))[1]

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    hook = model.model.layers[2].register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError):
        model(tiny.ids(3), **tiny.cached(cache))
    hook.remove()
    with pytest.raises(AttachError, match="in use by another call, or by one that failed; start"):
        model(tiny.ids(3), **tiny.cached(cache))


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
def test_gradient_checkpointing_is_refused_in_training_only() -> None:
    model, _ = attached(trainable=True)
    expected = model(tiny.ids(9)).logits
    model.gradient_checkpointing_enable()
    assert torch.equal(model(tiny.ids(9)).logits, expected)
    with pytest.raises(UnsupportedError, match=r"^gradient checkpointing cannot be used"):
        model.train()(tiny.ids(9), labels=tiny.ids(9))


@pytest.mark.parametrize("remembered", [0, 40])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("cache", ["none", "plain", "of a call"])
def test_a_memory_layer_on_its_own_is_refused(cache: str, training: bool, remembered: int) -> None:
    model, memory = attached()
    memory.read(tiny.ids(remembered))
    model.train(training)
    hidden = torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(0))
    embeddings = model.model.rotary_emb(hidden, torch.arange(9)[None])
    caches = {"none": None, "plain": DynamicCache(), "of a call": model(tiny.ids(9))[1]}
    given = {**tiny.cached(caches[cache]), "position_embeddings": embeddings}
    layer = model.model.layers[1]
    for module in (layer, layer.self_attn):
        options = given if module is layer else {**given, "attention_mask": None}
        with pytest.raises(
            UnsupportedError, match=r"^a memory layer on its own .* whole model, or"
        ):
            module(hidden, **options)
    model.model.layers[0](hidden, position_embeddings=embeddings)  # has no memory
    assert model(tiny.ids(9)).logits.isfinite().all()


def test_training_with_an_empty_memory_is_plain_training() -> None:
    ids = tiny.ids(WINDOW)
    model, plain = attached(trainable=True)[0], tiny.llama(trainable=True)
    for each in (model, plain):
        each.train()(ids, labels=ids).loss.backward()
    for (name, mine), (_, theirs) in zip(
        model.named_parameters(), plain.named_parameters(), strict=True
    ):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert difference(mine.grad, theirs.grad) == 0, name


@pytest.mark.parametrize("trained", ["", "layers.3.self_attn.q_proj", "layers.3.self_attn.k_proj"])
@pytest.mark.parametrize("overflown", [True, False])
def test_training_through_memory_is_refused(overflown: bool, trained: str) -> None:
    model, memory = attached()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained in name)
    if not overflown:
        memory.read(tiny.ids(20))
    ids = tiny.ids(3 * WINDOW if overflown else WINDOW)
    loss = model(ids, labels=ids).loss
    with pytest.raises(UnsupportedError, match=r"^backward\(\) .*memory\.clear\(\) before"):
        loss.backward()


def test_layers_below_memory_can_be_trained() -> None:
    model, memory = attached()
    memory.read(tiny.ids(20))
    model.lm_head.requires_grad_(True)
    model(tiny.ids(9), labels=tiny.ids(9)).loss.backward()
    assert model.lm_head.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("in_place", "compiled_first"),
    [
        (True, True),
        (False, False),
        pytest.param(True, False, marks=pytest.mark.thorough),
        pytest.param(False, True, marks=pytest.mark.thorough),
    ],
)
def test_compiled_models_work(in_place: bool, compiled_first: bool) -> None:
    torch.compiler.reset()
    model, ids = tiny.llama(), tiny.ids(40)
    plain = model(ids[:, :9]).logits
    with fotmem.attach(model, layers=LAYERS, window=WINDOW) as memory:
        memory.read(ids)
        expected = model(ids).logits

    def compiled() -> Any:
        if not in_place:
            return torch.compile(model, backend="eager")
        model.compile(backend="eager")
        return model

    if compiled_first:
        used = compiled()
        assert torch.equal(used(ids[:, :9]).logits, plain)
    memory = fotmem.attach(used if compiled_first else model, layers=LAYERS, window=WINDOW)
    memory.read(ids)
    if not compiled_first:
        used = compiled()
    assert torch.equal(used(ids).logits, expected)
    memory.detach()
    assert torch.equal(used(ids[:, :9]).logits, plain)


@pytest.mark.parametrize("read", ["abc", {"input_ids": [1]}, [[1, 2], [3]], None])
def test_reading_anything_but_token_ids_is_refused(read: object) -> None:
    _, memory = attached()
    with pytest.raises(InputError, match=f"token ids of one text.* got {type(read).__name__}"):
        memory.read(read)
