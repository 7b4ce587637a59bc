"""Loading runs no code, whatever the files say, and adapters must fit."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

import fotmem
from fotmem import FotmemError
from fotmem.errors import CheckpointError, InputError
from fotmem.models.load import load_model
from fotmem.models.tuned_adapter import TunedAdapter, write_tuned_adapter
from tests import folders, tiny
from tests.longllama_layout import released
from tests.longllama_layout import write as write_longllama
from tests.tiny import difference, one_thread  # noqa: F401 - a fixture

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is:FutureWarning")

CODE = """
import os
open(os.environ["MARKER"], "w").close()
from transformers import LlamaConfig as EvilConfig, LlamaForCausalLM as EvilModel
from transformers import PreTrainedTokenizerFast as EvilTokenizer
def generate(*args, **kwargs): open(os.environ["MARKER"], "w").close()
"""
AUTO_MAP = {
    "AutoConfig": "evil.EvilConfig",
    "AutoModelForCausalLM": "evil.EvilModel",
    "AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"],
}


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that exists once code of a checkpoint has run; every prompt is answered with yes."""
    path = tmp_path / "ran"
    monkeypatch.setenv("MARKER", str(path))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    return path


def edit(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content | changes), encoding="utf-8")


def with_code(folder: Path) -> Path:
    for file in (folder / "evil.py", folder / "custom_generate" / "generate.py"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(CODE)
    return folder


class Runs:
    """Unpickling it runs code."""

    def __reduce__(self) -> Any:
        return os.system, ('touch "$MARKER"',)


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"config.json": {"auto_map": AUTO_MAP}}, None),
        ({"config.json": {"auto_map": AUTO_MAP, "model_type": "evil"}}, "model"),
        ({"config.json": {"auto_map": {"AutoConfig": "x/y--evil.EvilConfig"}}}, None),
        ({"tokenizer_config.json": {"auto_map": AUTO_MAP}}, None),
        (
            {"tokenizer_config.json": {"auto_map": AUTO_MAP, "tokenizer_class": "EvilTokenizer"}},
            "the tokenizer of",
        ),
        ({"config.json": {"attn_implementation": "x/evil"}}, "model"),
    ],
)
def test_no_code_of_a_checkpoint_runs(
    changes: dict[str, dict[str, Any]], refused: str | None, marker: Path, tmp_path: Path
) -> None:
    folder = with_code(folders.write(tmp_path / "model"))
    for file, fields in changes.items():
        edit(folder / file, **fields)
    if refused is None:
        model, _ = load_model(str(folder))
        assert type(model).__module__.startswith("transformers.models.llama")
        assert model.config._attn_implementation in ("sdpa", "eager")
        model.generate(tiny.ids(5), max_new_tokens=1, eos_token_id=None, pad_token_id=0)
    else:
        with pytest.raises(InputError, match=f"^{refused} .* cannot be loaded") as error:
            load_model(str(folder))
        assert "\n" not in str(error.value)
    assert not marker.exists()


@pytest.mark.parametrize("field", ["_attn_implementation", "_attn_implementation_internal"])
def test_a_private_field_of_a_config_runs_no_code(field: str, marker: Path, tmp_path: Path) -> None:
    folder = folders.write(tmp_path / "model")
    edit(folder / "config.json", **{field: "x/evil"})
    try:  # the first is refused before transformers 5.25, which ignores both
        model, _ = load_model(str(folder))
    except InputError as error:
        assert str(error).startswith("model ")  # noqa: PT017 - depends on the version
    else:
        assert model.config._attn_implementation in ("sdpa", "eager")
    assert not marker.exists()


def test_no_code_of_a_longllama_checkpoint_runs(marker: Path, tmp_path: Path) -> None:
    """Released checkpoints come with code."""
    source = tiny.llama("mha")
    write_longllama(tmp_path / "model", source, released(source, auto_map=AUTO_MAP))
    fotmem.load_longllama(with_code(tmp_path / "model"))
    assert not marker.exists()


def test_no_pickle_of_a_longllama_checkpoint_runs(marker: Path, tmp_path: Path) -> None:
    source = tiny.llama("mha")
    write_longllama(tmp_path / "model", source, released(source), "bin")
    weights = {**source.state_dict(), "evil": Runs()}
    torch.save(weights, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"the weights in .* cannot be loaded"):
        fotmem.load_longllama(tmp_path / "model")
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(pickle.dumps(Runs()))
    with pytest.raises(CheckpointError, match=r"the weights in .* cannot be loaded"):
        fotmem.load_longllama(tmp_path / "model")
    assert not marker.exists()


@pytest.mark.parametrize("part", ["../other/model.safetensors", "/a.safetensors", "x.bin", 3, None])
def test_parts_of_the_weights_lie_beside_their_list(part: object, tmp_path: Path) -> None:
    folder = folders.write(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    listed = {"metadata": {}, "weight_map": {"model.norm.weight": part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(listed))
    with pytest.raises(InputError, match=r"the weights of .* not a file \*\.safetensors beside it"):
        load_model(str(folder))


def test_pickled_weights_are_not_loaded(marker: Path, tmp_path: Path) -> None:
    folder = folders.write(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save({"evil": Runs()}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pickled \(pytorch_model.bin\), .* save them as safeten"):
        load_model(str(folder))
    torch.save(Runs(), folder / "training_args.bin")
    with pytest.raises(InputError, match="pickled"):
        load_model(str(folder))
    assert not marker.exists()


# Adapters

TARGETS = [f"model.layers.{layer}.self_attn.{part}_proj" for layer in range(4) for part in "qv"]
MEMORY: dict[str, Any] = {
    "mem_layers": [1, 3],
    "mem_distance": 5,
    "mem_decay": 0.5,
    "mem_temperature": 0.7,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """An adapter's folder, beside its base, and the model that peft makes of both."""
    root = tmp_path_factory.mktemp("adapters")
    base = folders.write(root / "base")
    config = peft.LoraConfig(r=2, lora_alpha=3, target_modules=TARGETS, init_lora_weights=False)
    torch.manual_seed(0)
    tuned = peft.get_peft_model(folders.model(), config)
    tuned.save_pretrained(str(root / "adapter"))
    write_tuned_adapter(root / "adapter", TunedAdapter(base=str(base), **MEMORY))
    return root / "adapter", tuned.merge_and_unload()


@pytest.fixture
def adapter(saved: tuple[Path, Any], tmp_path: Path) -> Path:
    """A copy of the adapter's folder that a test may damage."""
    return Path(shutil.copytree(saved[0], tmp_path / "adapter"))


def refused(folder: Path, match: str) -> None:
    with pytest.raises(InputError, match=match) as error:
        load_model(str(folder))
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def test_an_added_adapter_equals_pefts(adapter: Path, saved: tuple[Path, Any]) -> None:
    model, _ = load_model(str(adapter))
    for name, weight in saved[1].state_dict().items():
        assert difference(model.state_dict()[name], weight) <= 1e-6, name
    assert not model.training
    assert {name: getattr(model.config, name) for name in MEMORY} == MEMORY
    half, _ = load_model(str(adapter), dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16


def test_an_adapter_on_an_adapter(adapter: Path, tmp_path: Path, saved: tuple[Path, Any]) -> None:
    twice = Path(shutil.copytree(adapter, tmp_path / "twice"))
    edit(twice / "memory.json", base=str(adapter), mem_layers=[2])
    model, _ = load_model(str(twice))
    assert model.config.mem_layers == [2]
    name = f"{TARGETS[0]}.weight"
    plain, once = folders.model().state_dict()[name], saved[1].state_dict()[name]
    assert difference(model.state_dict()[name], 2 * once - plain) <= 1e-5


def weights(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        found = load_file(folder / "adapter_model.safetensors")
        change(found)
        save_file(found, folder / "adapter_model.safetensors", {"format": "pt"})

    return damage


def config(**changes: Any) -> Callable[[Path], object]:
    return lambda folder: edit(folder / "adapter_config.json", **changes)


def key(target: str, matrix: str = "A") -> str:
    return f"base_model.model.{target}.lora_{matrix}.weight"


def one_layer_only(found: dict[str, Any]) -> None:
    for name in [name for name in found if ".layers.2." not in name]:
        del found[name]


def other_layers(found: dict[str, Any]) -> None:
    for name in list(found):
        found[name.replace("layers.", "layers.1")] = found.pop(name)


FIRST = key(TARGETS[0])
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (weights(lambda found: found.clear()), "lacks 16, among them .*layers.0.*lora_A"),
    "1 of 4 layers": (weights(one_layer_only), "lacks 12, among them .*layers.0"),
    "1 missing": (weights(lambda found: found.pop(FIRST)), "lacks 1, among them .*layers.0"),
    "other layers": (weights(other_layers), "lacks 16"),
    "1 more": (
        weights(lambda found: found.update({key("lm_head"): torch.zeros(2, 32)})),
        "has foreign weights: 1, among them .*lm_head",
    ),
    "another shape": (
        weights(lambda found: found.update({FIRST: torch.zeros(2, 31)})),
        r"layers.0.*lora_A.weight must have shape \[2, 32\], got \[2, 31\]",
    ),
    "another rank": (config(r=3), r"must have shape \[3, 32\], got \[2, 32\]"),
    "NaN": (weights(lambda found: found[FIRST].fill_(torch.nan)), "must hold finite floating"),
    "infinite": (weights(lambda found: found[FIRST].fill_(torch.inf)), "must hold finite floating"),
    "integers": (
        weights(lambda found: found.update({FIRST: torch.zeros(2, 32, dtype=torch.int32)})),
        "must hold finite floating",
    ),
    "no file": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "cannot be read"),
    "garbage": (
        lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x" * 99),
        "cannot be read",
    ),
    "pickled": (
        lambda folder: (
            (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin") and None
        ),
        "adapter_model.safetensors cannot be read",
    ),
    "another method": (config(peft_type="IA3"), "no such adapter .peft_type"),
    "foreign targets": (config(target_modules=[*TARGETS, "model.h.0"]), "'model.h.0', which its"),
    "any targets": (config(target_modules="all-linear"), "no such adapter .target_modules"),
    "no targets": (config(target_modules=[]), "no such adapter .target_modules"),
    "rank 0": (config(r=0), "no such adapter .r: "),
    "rank true": (config(r=True), "no such adapter .r: "),
    "alpha NaN": (
        lambda folder: (
            (folder / "adapter_config.json").write_text(
                '{"peft_type": "LORA", "r": 2, "lora_alpha": NaN, "target_modules": ["q_proj"]}'
            )
            and None
        ),
        "no such adapter",
    ),
    "biases": (config(bias="all"), "no such adapter .bias"),
    "DoRA": (config(use_dora=True), "asks for use_dora=true"),
    "other modules": (config(modules_to_save=["lm_head"]), "asks for modules_to_save"),
    "code": (config(megatron_config={"a": 1}), "asks for megatron_config"),
    "no JSON": (
        lambda folder: (folder / "adapter_config.json").write_text("{"),
        "no such adapter .JSON",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_an_adapter_that_does_not_fit_is_refused(name: str, adapter: Path) -> None:
    damage, match = DAMAGES[name]
    damage(adapter)
    refused(adapter, match)


def test_no_code_of_an_adapter_runs(adapter: Path, marker: Path) -> None:
    """peft would unpickle some files and import others."""
    edit(
        with_code(adapter) / "adapter_config.json",
        auto_mapping={"base_model_class": "EvilModel", "parent_library": "evil"},
        base_model_name_or_path=str(adapter),
        megatron_core="evil",
    )
    for name in ("adapter_model.bin", "training_args.bin", "optimizer.pt"):
        torch.save(Runs(), adapter / name)
    load_model(str(adapter))
    assert not marker.exists()


BASES: dict[str, tuple[object, str]] = {
    "itself": ("{folder}", "leads back to itself"),
    "a loop": ("{other}", "leads back to itself"),
    "a number": (5, "memory.json is damaged .base: "),
    "null": (None, "memory.json is damaged .base: "),
    "a list": (["smollm2"], "memory.json is damaged .base: "),
    "empty": ("", "memory.json names no base"),
    "a URL": ("https://example.com/model", "memory.json is damaged .base: "),
    "NUL": ("a\0b", "memory.json is damaged .base: "),
}


@pytest.mark.parametrize("name", BASES)
def test_a_wrong_base_is_refused(name: str, adapter: Path, tmp_path: Path) -> None:
    base, match = BASES[name]
    other = Path(shutil.copytree(adapter, tmp_path / "other"))
    edit(other / "memory.json", base=str(tmp_path / "x" / ".." / "adapter"))
    (tmp_path / "x").mkdir()
    if isinstance(base, str):
        base = base.format(folder=adapter, other=other)
    edit(adapter / "memory.json", base=base)
    with pytest.raises(InputError, match=match):
        load_model(str(adapter))


@pytest.mark.parametrize("base", ["no/such/folder", "{adapter}/memory.json", "{adapter}/nothing"])
def test_a_missing_base_is_refused(base: str, adapter: Path) -> None:
    edit(adapter / "memory.json", base=base.format(adapter=adapter))
    with pytest.raises(InputError, match=r"the base of .*memory.json: .*cannot be loaded"):
        load_model(str(adapter))


@pytest.mark.parametrize(
    "changes",
    [
        {"mem_layers": [1, 4]},
        {"mem_layers": [-1]},
        {"mem_layers": [1, 1]},
        {"mem_layers": []},
        {"mem_layers": [True]},
        {"mem_layers": [1.0]},
        {"mem_layers": "1"},
        {"mem_layers": None},
        {"mem_distance": -1},
        {"mem_distance": 64},
        {"mem_distance": 1.5},
        {"mem_distance": True},
        {"mem_decay": -1},
        {"mem_decay": "1"},
        {"mem_decay": float("nan")},
        {"mem_temperature": 0},
        {"mem_temperature": float("inf")},
        {"mem_tempreature": 1},
    ],
    ids=str,
)
def test_memory_options_of_an_adapter_are_checked(changes: dict[str, Any], adapter: Path) -> None:
    edit(adapter / "memory.json", **changes)
    refused(adapter, f"memory.json .*{next(iter(changes))}")


@pytest.mark.parametrize("content", ["", "[]", "5", "null", "{}", '{"base": "x"}', "\udcff", "{"])
def test_a_damaged_memory_file_is_refused(content: str, adapter: Path) -> None:
    (adapter / "memory.json").write_text(content, encoding="utf-8", errors="surrogateescape")
    refused(adapter, r"memory.json is .*damaged .* load it with peft")


def test_an_adapter_beside_a_gguf_file_is_refused(adapter: Path) -> None:
    """transformers would load another model in its place, the base that the adapter names."""
    file = folders.write_gguf(adapter / "tiny.gguf")
    with pytest.raises(InputError, match=r"lies an adapter, .* a folder of its own"):
        load_model(str(file))


def test_all_these_are_errors_of_fotmem() -> None:
    assert issubclass(InputError, FotmemError)
