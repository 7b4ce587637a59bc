"""The tuned model that ships with fotmem."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import fotmem
from fotmem.errors import CheckpointError, InputError
from fotmem.files import python_reference
from fotmem.measure.evaluate.dictionary import measure_dictionary
from fotmem.measure.evaluate.passkey import score
from fotmem.measure.evaluate.passkey_trials import make_trials
from fotmem.models.load import load_model, load_recipe
from fotmem.models.packaged import RECIPES
from fotmem.training.checkpoints import BANK_FILE
from recipes import dictionary, smollm2
from recipes.shipping import ship_halves
from recipes.smollm2 import OPTIONS
from tests import tiny

FOLDER, DICTIONARY = RECIPES["smollm2"], RECIPES["dictionary"]


@pytest.fixture(scope="module")
def tuned() -> tuple[Any, Any]:
    try:
        return load_recipe("smollm2")
    except InputError as error:
        pytest.skip(str(error))


def test_it_is_small_and_says_what_it_is_for() -> None:
    assert (FOLDER / "adapter_model.safetensors").stat().st_size <= 2_500_000
    config = json.loads((FOLDER / "adapter_config.json").read_text())
    memory = json.loads((FOLDER / "memory.json").read_text())
    assert config["base_model_name_or_path"] == memory["base"] == "smollm2"
    with safe_open(str(FOLDER / "adapter_model.safetensors"), "pt") as weights:
        layers = {int(name.split(".layers.")[1].split(".")[0]) for name in list(weights.keys())}
    first = memory["mem_layers"][0] - OPTIONS.layers_below
    assert layers == set(range(first, memory["mem_layers"][-1] + 1))
    assert memory["mem_layers"] == list(OPTIONS.layers or ())
    assert sum(map(len, memory["mem_retrieval_heads"].values())) == 9


@pytest.mark.thorough
def test_it_finds_a_number_that_stands_far_back(tuned: tuple[Any, Any]) -> None:
    model, tokenizer = tuned
    text = python_reference()[50_000:]
    trials = make_trials(tokenizer, text, tokens=1500, trials=3, seed=0)
    with fotmem.attach(model, window=512, top_k=16) as memory:
        assert memory.layers == smollm2.OPTIONS.layers
        assert memory.decay == smollm2.OPTIONS.decay == 0.7
        assert (memory.distance, memory.temperature) == (1024, 1.0)
        with_memory = [score(model, tokenizer, trial, memory) for trial in trials]
    without = [score(model, tokenizer, trial, None) for trial in trials]
    assert sum(outcome.exact for outcome in with_memory) >= 2
    assert sum(outcome.exact for outcome in without) == 0


@pytest.mark.parametrize("resumed", [False, True])
def test_recipes_begin_anew_or_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resumed: bool
) -> None:
    calls: list[bool] = []

    def train(*args: object, resume: bool, **kwargs: object) -> None:
        calls.append(resume)

    for output in (tmp_path, tmp_path / "tuned"):
        (output / "checkpoint-3").mkdir(parents=True)
        if resumed:
            (output / "checkpoint-3" / BANK_FILE).touch()
    text = tmp_path / "book.txt"
    text.touch()
    monkeypatch.setattr("fotmem.train", train)
    monkeypatch.setattr("recipes.dictionary.train_dictionary", train)
    for recipe in (smollm2, dictionary):
        monkeypatch.setattr(recipe, "BUILD", tmp_path)
        monkeypatch.setattr(recipe, "ship", lambda trained: None)
    monkeypatch.setattr(smollm2, "TEXTS", tmp_path)
    monkeypatch.setattr(smollm2, "load_model", lambda *_, **__: (None, None))
    smollm2.main()
    dictionary.main()
    assert calls == [resumed] * 2
    assert smollm2.data() == [text]
    text.unlink()
    with pytest.raises(SystemExit, match="run make texts"):
        smollm2.data()


def test_all_files_are_shipped_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, shipped = tmp_path / "trained", tmp_path / "shipped"

    def train(number: float) -> None:
        trained.mkdir(exist_ok=True)
        save_file({"weight": torch.tensor([number])}, trained / "weights.safetensors")
        for name in ("a.json", "b.json"):
            (trained / name).write_text(f"{number}")

    def ship() -> None:
        ship_halves(trained, shipped, "weights.safetensors", "a.json", "b.json")

    def content() -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in shipped.iterdir()}

    train(1)
    ship()
    before = content()
    assert load_file(shipped / "weights.safetensors")["weight"].dtype == torch.float16
    assert before["a.json"] == before["b.json"] == b"1"
    train(2)
    (trained / "b.json").unlink()
    with pytest.raises(FileNotFoundError):
        ship()
    train(2)
    (trained / "weights.safetensors").write_bytes(b"cut off")
    with pytest.raises(CheckpointError, match=r"weights.safetensors is damaged .*: train again"):
        ship()
    train(2)
    with monkeypatch.context() as patch:
        patch.setattr("recipes.shipping.save_file", disk_full)
        with pytest.raises(OSError, match="disk full"):
            ship()
    assert content() == before
    ship()
    assert content()["a.json"] == content()["b.json"] == b"2"
    assert {each.name for each in tmp_path.iterdir()} == {"trained", "shipped"}


def disk_full(*about: Any, **options: Any) -> None:
    raise OSError("disk full")


def test_a_recipe_is_loaded_by_each_of_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[object] = []

    def load(folder: object) -> tuple[Any, None]:
        loaded.append(folder)
        return tiny.llama(), None

    monkeypatch.setattr("fotmem.models.load._load_adapted", load)
    assert load_recipe("smollm2")[0].dtype == torch.float32
    assert load_recipe("smollm2", dtype=torch.bfloat16)[0].dtype == torch.bfloat16
    assert load_model("smollm2-fot", dtype=torch.bfloat16)[0].dtype == torch.bfloat16
    assert loaded == [str(FOLDER)] * 3
    with pytest.raises(InputError, match="there is no recipe 'llama'; choose one of: smollm2"):
        load_recipe("llama")


@pytest.mark.thorough
def test_the_dictionary_is_small_and_looks_records_up() -> None:
    assert sum(file.stat().st_size for file in DICTIONARY.iterdir()) <= 5_000_000
    model, _ = load_model("dictionary-fot")
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    for dtype in (torch.float32, torch.bfloat16):
        model, _ = load_recipe("dictionary", dtype=dtype)
        with fotmem.attach(model, top_k=32) as memory:
            assert (memory.layers, memory.temperature) == ((2,), 0.3)
            [row] = measure_dictionary(model, memory, [20_000], queries=100, store="exact", seed=1)
        assert row.exact_match >= 0.98
