"""Fixtures of the contract of adapters: the tiny model, and the adapter under test."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from fotmem.adapter import Adapter
from fotmem.models.memory_layers import refused_layers
from fotmem.models.model_parts import model_parts, plain_model
from fotmem.plugin.registry import registry
from fotmem.plugin.specs import AdapterSpec
from fotmem.testing.adapter.expect import expect


class AdapterFixtures:
    """The fixtures that tests of an adapter take."""

    layers: Sequence[int] | None = None

    @pytest.fixture
    def model(self) -> Any:
        """Return a tiny model of the family; a subclass must override this."""
        pytest.fail(f"{type(self).__name__} needs a fixture `model` that returns a tiny model")

    @pytest.fixture
    def adapter(self, model: Any) -> Adapter:
        """Return the adapter under test: the one that is installed for the model's class."""
        return model_parts(model).adapter

    @pytest.fixture
    def tiny(self, model: Any, adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Return a copy of the model with random parameters, which `adapter` alone knows."""
        name = type(model).__name__
        spec = AdapterSpec(name="under-test", architectures=(name,), factory=lambda: adapter)
        monkeypatch.setattr(registry(), "adapters", {spec.name: spec})
        return prepared(plain_model(model))

    @pytest.fixture
    def memory_layers(self, tiny: Any) -> list[int]:
        """Return the layers that get memory; fail with the first refusal if there are none."""
        if self.layers is not None:
            return list(self.layers)
        parts = model_parts(tiny)
        refused = refused_layers(parts)
        served = [layer for layer in range(len(parts.attentions)) if layer not in refused]
        if not served:
            raise AssertionError(
                "at least one layer must be able to have memory, and all are refused, the first "
                f"one because: {refused[0]}"
            )
        return served

    @pytest.fixture(autouse=True)
    def one_thread(self) -> Any:
        """Use one thread; more are slower for tiny models."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


def prepared(model: Any) -> Any:
    """Copy a model and draw its parameters, so that each of them has an effect."""
    tiny = copy.deepcopy(model).float().eval().requires_grad_(False)
    for name, least in (("max_position_embeddings", 32), ("vocab_size", 32)):
        actual = getattr(tiny.config.get_text_config(), name)
        expect(actual >= least, f"the model's {name} must be at least {least}, got {actual}")
    generator = torch.Generator().manual_seed(0)
    for parameter in tiny.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            drawn = noise / parameter.shape[-1] ** 0.5
        else:  # of a norm, or a bias
            drawn = 0.2 * noise + (parameter == 1).all()
        parameter.data.copy_(drawn)
    tiny.generation_config.eos_token_id = None  # never stop early
    tiny.generation_config.pad_token_id = 0
    return tiny
