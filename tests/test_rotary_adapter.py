"""Where `RotaryAdapter` finds a family's functions, whatever class the attention module has."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaAttention

import fotmem
from fotmem.adapter import RotaryAdapter
from fotmem.errors import UnsupportedError
from tests import tiny
from tests.tiny import LAYERS, WINDOW, difference, one_thread  # noqa: F401 - a fixture


class OwnAttention(LlamaAttention):
    """As a user's code may derive it: its module has no function of the family."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


class OtherAttention(nn.Module):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states


def test_a_class_that_is_derived_from_the_familys() -> None:
    model, question = tiny.llama(), tiny.ids(WINDOW)
    expected = model(question).logits
    for layer in LAYERS:
        model.model.layers[layer].self_attn.__class__ = OwnAttention
    with fotmem.attach(model, layers=LAYERS, window=WINDOW) as memory:
        assert difference(model(question).logits, expected) <= 1e-5
        memory.read(question)
        assert len(memory) == WINDOW


def test_a_class_of_no_family_is_refused_by_name() -> None:
    adapter = RotaryAdapter().for_layer(OtherAttention())
    key = torch.ones(1, 1, 1, 2)
    with pytest.raises(UnsupportedError, match="has no function apply_rotary_pos_emb"):
        adapter.rotate(key, key, (key[:, 0], key[:, 0]))
