"""The adapters of `fotmem_decoders`, each with a tiny model of its family."""

from typing import Any

import pytest
import torch

import fotmem
from fotmem.errors import UnsupportedError
from fotmem.testing import AdapterContract
from fotmem.testing.adapter.empty_memory import EmptyMemoryContract
from fotmem.testing.adapter.fixtures import AdapterFixtures
from fotmem.testing.adapter.layer import LayerContract
from fotmem.testing.adapter.memory import MemoryContract
from fotmem.testing.adapter.methods import MethodsContract
from fotmem_decoders.adapters import ResidualDropoutAdapter
from fotmem_decoders.families import FAMILIES
from tests import families
from tests.families import ROPE, YARN_IN_FULL_LAYERS

NO_LAYER = "soft-capped scores in every layer .*; no layer of this model can have memory"
FULL = {"full_attention": ROPE["default"]}
ONE_HEAD = {"num_attention_heads": 1, "num_key_value_heads": 1}
LONGROPE_OF_PHIMOE = ROPE["longrope"] | {"short_mscale": 1.3, "long_mscale": 1.5}
YARN_IN_SLIDING_LAYERS = {"full_attention": ROPE["default"], "sliding_attention": ROPE["yarn"]}


THOROUGH = pytest.mark.thorough


class TestDifferences(AdapterContract):
    """The whole contract, once for each kind of difference between families.

    `TestFamilies` sees at once whether an adapter computes what each of these families does.
    """

    @pytest.fixture(
        params=[
            pytest.param(
                ("llama", {"num_attention_heads": 1, "num_key_value_heads": 1}), id="llama"
            ),
            pytest.param(("llama", {"rope_parameters": ROPE["yarn"]}), id="yarn"),
            pytest.param(("qwen2", {}), id="biases-and-sliding-layers"),
            pytest.param(("qwen3", {}), id="norm-of-each-head", marks=THOROUGH),
            pytest.param(("olmoe", {}), id="norm-of-all-heads-clipped-and-experts"),
            pytest.param(("phi3", {}), id="one-projection-and-half-of-each-head-rotated"),
            pytest.param(("cohere", {}), id="neighbours-rotated"),
            pytest.param(("smollm3", {}), id="layers-that-do-not-rotate", marks=THOROUGH),
            pytest.param(("gemma3", {"rope_parameters": YARN_IN_FULL_LAYERS}), id="rope-by-type"),
            pytest.param(("stablelm", {}), id="norm-for-each-head", marks=THOROUGH),
            pytest.param(("hunyuan-v1-dense", {}), id="norm-after-rotation", marks=THOROUGH),
            pytest.param(("bitnet", {}), id="norm-before-the-output-projection", marks=THOROUGH),
        ]
    )
    def model(self, request: Any) -> Any:
        family, overrides = request.param
        return families.tiny(family, **overrides)


class ShortProof(AdapterFixtures):
    """The tests of the contract that see what an adapter can misread in its modules."""

    run = MethodsContract.run
    test_first_position = MethodsContract.test_keys_at_the_first_position
    test_other_positions = MethodsContract.test_keys_move_from_the_first_position
    test_layer = LayerContract.test_parts_compose_to_the_models_own_layer
    test_memory = MemoryContract.test_memory_overflow_and_local_keys_share_one_softmax
    test_generating = EmptyMemoryContract.test_generating_with_an_empty_memory_is_plain_generating


class TestFamilies(ShortProof):
    """Every family of the table."""

    @pytest.fixture(params=FAMILIES)
    def model(self, request: Any) -> Any:
        return families.tiny(request.param)


class TestRope(ShortProof):
    """Every kind of rotary embedding that transformers knows, in all layers and by type."""

    @pytest.fixture(
        params=[
            *(
                pytest.param(("llama", ROPE[kind]), id=kind)
                for kind in ("linear", "longrope", "llama3", "proportional")
            ),
            pytest.param(("gemma3", YARN_IN_SLIDING_LAYERS), id="yarn-in-sliding-layers"),
            pytest.param(("olmo3", YARN_IN_FULL_LAYERS), id="yarn-in-full-layers"),
            pytest.param(("phimoe", LONGROPE_OF_PHIMOE), id="longrope-of-phimoe"),
        ]
    )
    def model(self, request: Any) -> Any:
        family, rope_parameters = request.param
        return families.tiny(family, rope_parameters=rope_parameters)


@pytest.mark.parametrize("family, rope", [("phimoe", LONGROPE_OF_PHIMOE), ("llama", ROPE["yarn"])])
def test_keys_before_the_window_have_the_factor_of_the_rope(family: str, rope: Any) -> None:
    model = families.tiny(family, rope_parameters=rope)
    with fotmem.attach(model, layers=[1], window=16) as memory:
        attached = memory.attached_model
        key = torch.randn(1, 2, 3, attached.geometry(1)[1])
        first = attached.adapters[1].at_first_position(key, attached.decoder)
        for last in (2, -1, -5):
            moved = attached.adapters[1].at_positions(
                first, attached.decoder, torch.arange(last - 2, last + 1)[None]
            )
            torch.testing.assert_close(moved.norm(dim=3), first.norm(dim=3))


def test_every_kind_of_rope_is_tried() -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    assert set(ROPE) == {"default", *ROPE_INIT_FUNCTIONS}


@pytest.mark.parametrize(
    "family, config, options, message",
    [
        ("llama", {"rope_parameters": ROPE["dynamic"]}, {}, "RoPE of type 'dynamic'"),
        (
            "llama",
            {"rope_parameters": ROPE["longrope"]},
            {"window": 33},
            "RoPE of type 'longrope' beyond 32 positions",
        ),
        (
            "ministral3",
            {"rope_parameters": ROPE["yarn"] | {"llama_4_scaling_beta": 0.1}},
            {"window": 16, "distance": 16},
            "queries that are scaled by their position beyond 16 positions",
        ),
        ("gemma2", {"attn_logit_softcapping": 50.0}, {}, NO_LAYER),
        ("vaultgemma", {"attn_logit_softcapping": 50.0}, {}, NO_LAYER),
        (
            "gemma3",
            {"rope_parameters": FULL | {"sliding_attention": ROPE["dynamic"]}},
            {},
            "RoPE of type 'dynamic' in layers of type 'sliding_attention' cannot",
        ),
        (
            "gemma3",
            {"rope_parameters": FULL | {"sliding_attention": ROPE["longrope"]}},
            {"window": 33},
            "'longrope' in layers of type 'sliding_attention' beyond 32 positions",
        ),
    ],
)
def test_a_model_that_does_not_fit_is_refused_by_name(
    family: str, config: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    model = families.tiny(family, **config)
    with pytest.raises(UnsupportedError, match=message):
        fotmem.attach(model, layers=[1], **options)
    assert not any("forward" in vars(module) for module in model.modules())


def test_attention_with_parts_that_the_adapter_does_not_use_is_refused_by_name() -> None:
    model = families.tiny("llama")
    model.model.layers[1].self_attn.gate_proj = torch.nn.Linear(32, 32)
    with pytest.raises(UnsupportedError, match="has 'gate_proj', which RotaryAdapter does not use"):
        fotmem.attach(model, layers=[1])
    fotmem.attach(model, layers=[0]).detach()


@pytest.mark.parametrize("family", ["mixtral", "qwen3-moe"])
def test_router_logits_cover_the_whole_input(family: str) -> None:
    model = families.tiny(family, **({"sliding_window": None}))
    tokens = torch.arange(1, 33).reshape(2, 16)
    plain = model(tokens, output_router_logits=True, labels=tokens)
    with fotmem.attach(model, layers=[1], window=16):
        whole = model(tokens, output_router_logits=True, labels=tokens)
        assert torch.allclose(whole.loss, plain.loss, atol=1e-5)
        split = model(tokens.reshape(1, 32), output_router_logits=True)
    for mine, theirs in zip(whole.router_logits, plain.router_logits, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)
    assert [len(logits) for logits in split.router_logits] == [32, 32]
    assert torch.allclose(split.router_logits[0][:8], plain.router_logits[0][:8], atol=1e-5)


@pytest.mark.parametrize("family", ["starcoder2", "seed-oss"])
def test_output_is_dropped_in_training_as_by_the_family(family: str) -> None:
    attention = families.tiny(family, residual_dropout=1.0).model.layers[0].self_attn
    adapter = ResidualDropoutAdapter().for_layer(attention)
    output = torch.ones(1, 3, 32)
    assert adapter.project_out(attention, output).any()
    assert not adapter.project_out(attention.train(), output).any()


def test_soft_caps_of_some_layers_are_refused_there() -> None:
    model = families.tiny("gemma2", attn_logit_softcapping=50.0)
    model.model.layers[0].self_attn.attn_logit_softcapping = None
    cure = "in layer 1 .*; attach a memory to layers without it"
    with pytest.raises(UnsupportedError, match=cure):
        fotmem.attach(model, layers=[1])
    fotmem.attach(model, layers=[0]).detach()
