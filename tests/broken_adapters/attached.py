"""Mistakes in refusing layers, and adapters that leave something on a model."""

from typing import Any, Self

from torch import Tensor, nn

from fotmem.adapter import RotaryAdapter
from fotmem.errors import UnsupportedError
from fotmem_decoders.adapters import SmolLM3Adapter
from tests.broken_adapters.caught import caught_by


@caught_by("test_other_layers_are_refused", "smollm3")
class RefusesNothing(SmolLM3Adapter):
    """Its test class says that only the first layer can have memory."""

    layers = (0,)


@caught_by("test_some_layers_can_have_memory")
class RefusesEverything(RotaryAdapter):
    def for_layer(self, attention: Any) -> Self:
        raise UnsupportedError("this layer", "choose another one")


@caught_by("test_some_layers_can_have_memory", "gemma2", attn_logit_softcapping=20.0)
class SoftCapped(RotaryAdapter):
    """Nothing that an adapter does makes these layers fit."""


@caught_by("test_adapters_have_no_state")
class RemembersTheFirstModel(RotaryAdapter):
    def __init__(self) -> None:
        self.first: dict[int, Any] = {}

    def project_heads(self, attention: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kept = self.first.setdefault(attention.layer_idx, attention)
        return super().project_heads(kept, hidden_states)


@caught_by("test_detaching_leaves_no_trace")
class LeavesAnAttribute(RotaryAdapter):
    def project(self, attention: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attention.last_hidden_states = hidden_states
        return super().project(attention, hidden_states)


@caught_by("test_detaching_leaves_no_trace")
class LeavesAHook(RotaryAdapter):
    def decoder(self, model: Any) -> nn.Module:
        decoder = super().decoder(model)
        decoder.register_forward_hook(lambda module, args, output: None)
        return decoder


@caught_by("test_a_memory_adds_nothing_to_the_state_dict")
class LeavesABuffer(RotaryAdapter):
    def at_first_position(self, key: Tensor, decoder: Any) -> Tensor:
        decoder.register_buffer("last_key", key)
        return super().at_first_position(key, decoder)


@caught_by("test_a_deep_copy_is_a_plain_model")
class WeightsTurnedWhenTakenApart(RotaryAdapter):
    """Changes the model it was given: a copy is changed twice."""

    def attentions(self, decoder: Any) -> list[nn.Module]:
        decoder.norm.weight.data.mul_(1.01)
        return super().attentions(decoder)
