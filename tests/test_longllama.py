"""Checkpoints in the released LongLLaMA layout, against the original code and the oracle."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

import fotmem
from fotmem.errors import CheckpointError, DtypeError, LayerError, OptionError
from tests import tiny
from tests.longllama_layout import released, write
from tests.oracle import Oracle
from tests.tiny import (  # noqa: F401 - `one_thread` is a fixture
    contents,
    difference,
    generate,
    one_thread,
)

FIXTURES = Path(__file__).parents[2] / "shared" / "fixtures" / "longllama"


@pytest.mark.skipif(not FIXTURES.is_dir(), reason=f"the original code's answers: no {FIXTURES}")
@pytest.mark.parametrize("case", ["positional", "no_positional"])
def test_equals_the_original_code(case: str) -> None:
    expected = load_file(FIXTURES / case / "expected.safetensors")
    checked = set()
    for name, wanted in expected.items():
        if name.startswith("logits"):
            last, length = (int(part.split("_")[-1]) for part in name.split(".")[1:])
            model, _ = fotmem.load_longllama(FIXTURES / case, last_context_length=last)
            assert difference(model(expected["ids"][:, :length]).logits, wanted) <= 1e-4
            checked.add(name)
    model, memory = fotmem.load_longllama(FIXTURES / case)
    cache = model(expected["ids"]).past_key_values
    for layer in memory.layers:
        for kind, actual in zip(("keys", "values"), contents(cache.store(layer)), strict=True):
            name = f"memory.{layer}.{kind}"
            assert difference(actual[None], expected[name]) <= 1e-4
            checked.add(name)
    assert torch.equal(generate(model, expected["ids"], 40), expected["greedy"])
    assert checked == expected.keys() - {"ids", "greedy"}


LARGE = {"hidden_size": 200, "num_attention_heads": 2, "num_key_value_heads": 2}
DEEP = {"num_hidden_layers": 6, "num_key_value_heads": 4}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}


@pytest.mark.parametrize("last_context_length", [None, 1, 16])
@pytest.mark.parametrize(
    "sizes, fields",
    [
        ({}, {}),
        ({}, {"mem_positionals": False}),
        ({}, {"mem_attention_grouping": [4, 2048]}),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
            {"rope_theta": 1000000},
        ),
        ({"rope_parameters": LINEAR}, {"rope_scaling": {"type": "linear", "factor": 2.0}}),
        (DEEP, {"mem_layers": [0, 2, 5]}),
        ({"num_attention_heads": 1, "num_key_value_heads": 1}, {}),
        (LARGE, {}),
        ({"tie_word_embeddings": True}, {"tie_word_embeddings": True}),
        ({}, {"rms_norm_eps": 0.1}),
    ],
    ids=str,
)
def test_self_made_checkpoints_equal_oracle(
    tmp_path: Path, sizes: dict[str, Any], fields: dict[str, Any], last_context_length: int | None
) -> None:
    eps = {"rms_norm_eps": fields.get("rms_norm_eps", 1e-6)}
    source = tiny.llama("mha", **{**sizes, **eps})
    config = released(source, **fields)
    write(tmp_path / "checkpoint", source, config)
    last = last_context_length or config["last_context_length"]
    oracle = Oracle(
        source,
        config["mem_layers"],
        window=16,
        last_context_length=last,
        split_above=last,
        mem_positionals=config["mem_positionals"],
    )
    model, memory = fotmem.load_longllama(
        tmp_path / "checkpoint", last_context_length=last_context_length
    )
    assert type(model) is LlamaForCausalLM
    assert not model.training
    assert memory.top_k is None
    question = tiny.ids(50)
    out = model(question)
    assert difference(out.logits[0], oracle.forward(question)) <= 1e-4
    for layer in config["mem_layers"]:
        for actual, wanted in zip(
            contents(out.past_key_values.store(layer)), oracle.overflow[layer], strict=True
        ):
            assert difference(actual, wanted) <= 1e-4
    assert torch.equal(generate(model, question, 20)[0], oracle.greedy(question, 20))


@pytest.mark.parametrize("dtype", ["bfloat16", None, "torch.bfloat16", "float16"])
def test_memory_dtype(tmp_path: Path, dtype: str | None) -> None:
    source = tiny.llama("mha")
    config = released(source, mem_dtype=dtype)
    if dtype is None:
        del config["mem_dtype"]  # the original's default is bfloat16
    write(tmp_path / "checkpoint", source, config)
    kept = torch.float16 if dtype == "float16" else torch.bfloat16
    oracle = Oracle(
        source, [1, 3], window=16, last_context_length=10, split_above=10, mem_dtype=kept
    )
    model, _ = fotmem.load_longllama(tmp_path / "checkpoint")
    out = model(tiny.ids(50))
    assert out.logits.dtype == torch.float32
    assert out.past_key_values.store(1).dtype == kept
    assert difference(out.logits[0], oracle.forward(tiny.ids(50))) <= 2e-2


@pytest.mark.parametrize("form", ["safetensors", "sharded safetensors", "bin", "sharded bin"])
def test_forms_of_weights(tmp_path: Path, form: str) -> None:
    source = tiny.llama("mha", dtype=torch.bfloat16)
    write(tmp_path / "checkpoint", source, released(source, torch_dtype="bfloat16"), form)
    model, memory = fotmem.load_longllama(str(tmp_path / "checkpoint"))
    assert model.dtype == torch.bfloat16
    assert memory.store(1).dtype == torch.float32  # mem_dtype
    memory.detach()
    assert torch.equal(model(tiny.ids(9)).logits, source(tiny.ids(9)).logits)


def test_rotary_buffers_of_old_checkpoints_are_ignored(tmp_path: Path) -> None:
    source = tiny.llama("mha")
    write(tmp_path / "checkpoint", source, released(source))
    file = tmp_path / "checkpoint" / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(weights, file)
    model, memory = fotmem.load_longllama(tmp_path / "checkpoint")
    memory.detach()
    assert torch.equal(model(tiny.ids(9)).logits, source(tiny.ids(9)).logits)


def test_its_memory_can_be_read_into(tmp_path: Path) -> None:
    source = tiny.llama("mha")
    write(tmp_path / "checkpoint", source, released(source))
    oracle = Oracle(source, [1, 3], window=16, last_context_length=10, split_above=10)
    model, memory = fotmem.load_longllama(tmp_path / "checkpoint", store="exact")
    for reader in (memory, oracle):
        reader.read(tiny.ids(40))
    question = tiny.ids(30, seed=1)
    assert difference(model(question).logits[0], oracle.forward(question)) <= 1e-4


@pytest.mark.parametrize(
    "fields, error, message",
    [
        ({"model_type": "llama"}, CheckpointError, "must have model_type 'longllama', got 'llama'"),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
            CheckpointError,
            "rope_scaling of type 'dynamic' is not supported",
        ),
        (
            {"rope_scaling": {"rope_type": "longrope", "factor": 2.0}},
            CheckpointError,
            "rope_scaling of type 'longrope' is not supported",
        ),
        ({"rope_scaling": "linear"}, CheckpointError, "rope_scaling must be .*, got 'linear'"),
        ({"mem_layers": [1, 4]}, LayerError, "layers must be from 0 to 3, got 4"),
        ({"mem_layers": []}, LayerError, "at least one memory layer, got none"),
        ({"mem_layers": "1,3"}, CheckpointError, "mem_layers must be a list of layer indices"),
        ({"last_context_length": 17}, OptionError, r"must be from 1 to the window \(16\), got 17"),
        ({"last_context_length": 0}, OptionError, r"must be from 1 to the window \(16\), got 0"),
        ({"last_context_length": "8"}, OptionError, "must be an integer, got '8'"),
        ({"mem_dtype": "int8"}, DtypeError, "mem_dtype .* must be float32, bfloat16 or float16"),
        ({"mem_dtype": "banana"}, DtypeError, "mem_dtype .* got '?banana"),
        ({"is_encoder_decoder": True}, CheckpointError, "is_encoder_decoder=True is not supported"),
        ({"hidden_size": 33}, CheckpointError, r"describes no LLaMA|cannot be loaded"),
        ({"num_hidden_layers": 5}, CheckpointError, r"lacks 9 weights, among them model.layers.4"),
        ({"intermediate_size": 50}, CheckpointError, "cannot be loaded"),
        ({"mem_positionals": "no"}, CheckpointError, "mem_positionals must be true or false"),
    ],
)
def test_unsupported_fields_are_refused(
    tmp_path: Path, fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    source = tiny.llama("mha")
    write(tmp_path / "checkpoint", source, released(source, **fields))
    with pytest.raises(error, match=message):
        fotmem.load_longllama(tmp_path / "checkpoint")


def test_broken_folders(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is not a checkpoint: it has no config\.json"):
        fotmem.load_longllama(tmp_path)
    for content in ("{", "[]", '"longllama"', "\x00"):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"config.json (cannot be read as|must have)"):
            fotmem.load_longllama(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(released(tiny.llama("mha"))))
    with pytest.raises(CheckpointError, match=r"the weights in .* cannot be loaded"):
        fotmem.load_longllama(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(CheckpointError, match=r"the weights in .* cannot be loaded"):
        fotmem.load_longllama(tmp_path)
    with pytest.raises(OptionError, match=r"must be from 1 to the window \(16\), got 40"):
        fotmem.load_longllama(tmp_path, last_context_length=40)
