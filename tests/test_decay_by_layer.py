"""A decay for each memory layer: in arguments, files, saved memories and adapters."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

import fotmem
from fotmem.cli.options import parse_decay
from fotmem.errors import InputError, LayerError, OptionError
from fotmem.models.tuned_adapter import apply, configure, read_tuned_adapter
from tests import tiny
from tests.tiny import LAYERS, WINDOW, difference, one_thread  # noqa: F401 - a fixture

DECAY = {1: 2.0, 3: 0.0}
QUESTION = tiny.ids(9, seed=1)


def asked(model: Any, decay: Any, **options: Any) -> torch.Tensor:
    with fotmem.attach(model, layers=LAYERS, window=WINDOW, decay=decay, **options) as memory:
        memory.read(tiny.ids(150))
        logits: torch.Tensor = model(QUESTION).logits
    return logits


def test_layers_that_are_not_named_have_none() -> None:
    model = tiny.llama()
    expected = asked(model, DECAY)
    assert torch.equal(asked(model, {1: 2}), expected)
    assert torch.equal(asked(model, {"1": 2, "3": 0}), expected)  # as in JSON
    assert torch.equal(asked(model, {1: 2, 3: 2}), asked(model, 2))
    assert difference(asked(model, {3: 2.0}), expected) > 1e-3


def test_it_can_be_set_at_any_time() -> None:
    model = tiny.llama()
    with fotmem.attach(model, layers=LAYERS, window=WINDOW) as memory:
        memory.read(tiny.ids(150))
        memory.decay = DECAY
        assert memory.decay == DECAY
        assert torch.equal(model(QUESTION).logits, asked(tiny.llama(), DECAY))
        with pytest.raises(LayerError, match=r"names layer 2, .* memory layers are \[1, 3\]"):
            memory.decay = {1: 2.0, 2: 2.0}
        with pytest.raises(OptionError, match=r"decay of layer 1 must be .* at least 0, got nan"):
            memory.decay = {1: float("nan")}
        assert memory.decay == DECAY


def test_that_of_the_config_may_name_layers_without_memory() -> None:
    model = tiny.llama()
    model.config.mem_decay = {"1": 2.0, "2": 1.0}
    with fotmem.attach(model, layers=LAYERS) as memory:
        assert memory.decay == {1: 2.0, 2: 1.0}
    with pytest.raises(LayerError, match="decay names layer 2"):
        fotmem.attach(tiny.llama(), layers=LAYERS, decay={1: 2.0, 2: 1.0})
    with pytest.raises(LayerError, match="decay names layer 2"):
        fotmem.attach(model, layers=LAYERS, decay={1: 2.0, 2: 1.0})


def test_what_is_given_replaces_what_a_config_has_wrong() -> None:
    model = tiny.llama()
    model.config.mem_distance, model.config.mem_decay = 5000, -1
    with fotmem.attach(model, layers=LAYERS, distance=0, decay={1: 2.0}) as memory:
        assert (memory.distance, memory.decay) == (0, {1: 2.0})


def test_a_directory_keeps_it(tmp_path: Path) -> None:
    model = tiny.llama()
    expected = asked(model, DECAY)
    with fotmem.attach(model, layers=LAYERS, window=WINDOW, decay=DECAY) as memory:
        memory.read(tiny.ids(150))
        memory.save(tmp_path / "saved")
    with fotmem.attach(model, memory=tmp_path / "saved") as memory:
        assert memory.decay == DECAY
        assert torch.equal(model(QUESTION).logits, expected)
    with pytest.raises(LayerError, match="decay names layer 0"):
        fotmem.attach(model, memory=tmp_path / "saved", decay={0: 1.0})


def test_a_config_file_gives_it(tmp_path: Path) -> None:
    file = tmp_path / "fotmem.toml"
    file.write_text('[memory]\nstore = "exact"\nlayers = [1, 3]\ndecay = {1 = 2, 3 = 0}\n')
    with fotmem.attach(tiny.llama(), config=file) as memory:
        assert memory.decay == DECAY
    for wrong in ("{a = 2}", "{1 = -2}", "[2.0]"):
        file.write_text(f'[memory]\nstore = "exact"\nlayers = [1, 3]\ndecay = {wrong}\n')
        with pytest.raises(InputError, match=r"memory\.decay: "):
            fotmem.attach(tiny.llama(), config=file)


def test_an_adapter_has_it(tmp_path: Path) -> None:
    written = {"base": "", "mem_layers": [1, 3], "mem_decay": {"1": 2.0, "3": 0.0}}
    (tmp_path / "memory.json").write_text(json.dumps(written))
    model = tiny.llama()
    configure(model, read_tuned_adapter(tmp_path))
    model.config.save_pretrained(tmp_path / "config")
    kept = json.loads((tmp_path / "config/config.json").read_text())
    assert kept["mem_decay"] == written["mem_decay"]
    with fotmem.attach(model) as memory:
        assert memory.decay == DECAY
    for wrong, reason in (
        ({"2": 1.0}, r"layer 2 is none of mem_layers \[1, 3\]"),
        ({"1": -1.0}, "decay of layer 1 must be"),
        ({"one": 1.0}, "a layer of decay must be"),
    ):
        (tmp_path / "memory.json").write_text(json.dumps(written | {"mem_decay": wrong}))
        with pytest.raises(InputError, match=f"memory.json is damaged .*{reason}"):
            apply(tiny.llama(), tmp_path, read_tuned_adapter(tmp_path))


def test_as_words() -> None:
    assert parse_decay("0.7") == 0.7
    assert parse_decay("17:0.7,18:1") == {"17": 0.7, "18": 1.0}
    for wrong in ("", "x", "nan", "-1", "17:", "17:x", "17:-1", "x:1", "17:1,18", "-1:1", "1:2:3"):
        with pytest.raises(typer.BadParameter, match="expected a number of at least 0"):
            parse_decay(wrong)
