"""Options of a memory: read once from arguments and config, frozen, and checked together."""

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch

import fotmem
from fotmem.errors import DtypeError, OptionError
from fotmem.memory.options import MemoryOptions
from fotmem.models.model_parts import model_parts
from tests import tiny
from tests.tiny import LAYERS, one_thread  # noqa: F401 - a fixture


def choose(config: dict[str, Any], **given: Any) -> MemoryOptions:
    return MemoryOptions.choose(model_parts(tiny.llama(**config)), given)


def test_arguments_come_before_the_config_and_the_config_before_defaults() -> None:
    config = {"mem_distance": 5, "mem_decay": 0.5, "mem_positionals": False}
    options = choose(config, decay=0.25, window=20)
    assert (options.distance, options.decay, options.temperature) == (5, 0.25, 1.0)
    assert (options.window, options.last_context_length, options.split_above) == (20, 10, 20)
    assert (options.top_k, options.positionals, options.dtype) == (32, False, torch.float32)
    assert choose({"mem_dtype": "bfloat16"}).dtype == torch.bfloat16


def test_options_are_frozen_and_a_changed_copy_is_checked() -> None:
    options = choose({}, window=16)
    with pytest.raises(FrozenInstanceError):
        setattr(options, "top_k", 3)  # noqa: B010 - mypy knows that it is frozen
    assert replace(options, top_k=None, distance=63).distance == 63
    wrong: dict[str, Any] = {
        "window": 65,
        "last_context_length": 17,
        "distance": 64,
        "decay": -1,
        "temperature": 0,
        "top_k": 0,
    }
    for name, value in wrong.items():
        with pytest.raises(OptionError, match=f"^{name} must be .*, got {value}"):
            replace(options, **{name: value})
    with pytest.raises(DtypeError, match="dtype"):
        replace(options, dtype=torch.float64)


def test_a_memory_shows_its_options() -> None:
    with fotmem.attach(tiny.llama(), layers=LAYERS, window=16, top_k=3) as memory:
        before = memory.options
        memory.top_k = None
        assert (before.top_k, memory.options.top_k) == (3, None)
        assert memory.options == replace(before, top_k=None)
