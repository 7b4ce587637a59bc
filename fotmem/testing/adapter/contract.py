"""The contract of an adapter: tests of `fotmem.adapter.Adapter` with a tiny model."""

from __future__ import annotations

from fotmem.testing.adapter.attach import AttachContract
from fotmem.testing.adapter.empty_memory import EmptyMemoryContract
from fotmem.testing.adapter.fixtures import AdapterFixtures
from fotmem.testing.adapter.layer import LayerContract
from fotmem.testing.adapter.layer_types import LayerTypesContract
from fotmem.testing.adapter.memory import MemoryContract
from fotmem.testing.adapter.methods import MethodsContract
from fotmem.testing.adapter.sequences import SequenceContract


class AdapterContract(  # pytest begins with the last base
    AttachContract,
    SequenceContract,
    MemoryContract,
    EmptyMemoryContract,
    LayerTypesContract,
    LayerContract,
    MethodsContract,
    AdapterFixtures,
):
    """Tests of an adapter; inherit it, and give it a tiny model of the family.

    The model need not be trained, nor its weights be random: the contract copies it and draws every
    parameter anew, biases and norms included. It needs two layers or more, one of each kind that
    the family has, more query heads than key/value heads if the family can have them,
    ``max_position_embeddings`` of 32 or more, and a vocabulary of 32 or more. Test a model for
    each thing that the family can vary (a sliding window, kinds of RoPE, biases): give the
    fixture parameters.

    Attributes
    ----------
    layers : sequence of int or None
        Which layers can be memory layers; `for_layer` must refuse all others. None: all that
        `for_layer` does not refuse.

    Examples
    --------
    The adapter is the one that is installed for the model's class; a fixture ``adapter`` puts
    another one in its place. In a test module::

        class TestMyAdapter(AdapterContract):
            @pytest.fixture
            def model(self):
                return MyForCausalLM(MyConfig(hidden_size=32, num_hidden_layers=2, ...))
    """
