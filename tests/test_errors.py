import builtins
import functools
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import fotmem
from fotmem import errors
from fotmem.errors import (
    AttachError,
    CheckpointError,
    DtypeError,
    IdError,
    InputError,
    LayerError,
    MissingPackageError,
    ModelError,
    NonFiniteError,
    OptionError,
    ShapeError,
    UnknownStoreError,
    UnsupportedError,
)
from fotmem.plugin import AdapterSpec

BUILTIN = {
    "ShapeError": ValueError,
    "DtypeError": TypeError,
    "NonFiniteError": ValueError,
    "IdError": IndexError,
    "OptionError": ValueError,
    "UnknownStoreError": LookupError,
    "MissingPackageError": ImportError,
    "LayerError": IndexError,
    "ModelError": TypeError,
    "CheckpointError": ValueError,
    "AttachError": RuntimeError,
    "UnsupportedError": RuntimeError,
    "StorageError": OSError,
    "BusyError": RuntimeError,
    "InputError": ValueError,
}
CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, fotmem.FotmemError)
]
exact = functools.partial(fotmem.create_store, "exact", num_heads=2, head_dim=4)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    return LlamaForCausalLM(config)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_is_fotmems_and_a_builtin_one(kind: type[Exception]) -> None:
    assert kind.__name__ in errors.__all__
    if kind is not fotmem.FotmemError:
        assert kind.__bases__ == (fotmem.FotmemError, BUILTIN[kind.__name__])


def test_the_tree_at_the_top_of_the_file_is_complete() -> None:
    drawn = re.findall(r"── (\w+)\((\w+)\) {2,}\S", errors.__doc__ or "")
    assert {name: getattr(builtins, base) for name, base in drawn} == BUILTIN
    assert {kind.__name__ for kind in CLASSES} == {*BUILTIN, "FotmemError"}


def raised(kind: type[Exception], work: Callable[[], object]) -> str:
    with pytest.raises(kind) as caught:
        work()
    assert type(caught.value) is kind
    brought = pickle.loads(pickle.dumps(caught.value))  # as out of a worker process
    assert (type(brought), str(brought)) == (kind, str(caught.value))
    return str(caught.value)


def test_shape_error() -> None:
    keys = torch.ones(3, 5, 4)
    message = raised(ShapeError, lambda: exact().add(keys, keys))
    assert message == "keys must have shape [H=2, N, D=4], got [3, 5, 4]"


def test_dtype_error() -> None:
    queries = torch.ones(2, 5, 4, dtype=torch.float64)
    message = raised(DtypeError, lambda: exact().search(queries, 1))
    assert message == (
        "queries must be float32, bfloat16, float16, got torch.float64; convert with .to(...)"
    )


def test_non_finite_error() -> None:
    values = torch.ones(2, 5, 4)
    values[1, 2, 3] = torch.nan
    message = raised(NonFiniteError, lambda: exact().add(torch.ones(2, 5, 4), values))
    assert message == (
        "values must be finite, found NaN or Inf, first at [1, 2, 3] of [2, 5, 4]; nothing was "
        "stored or searched. Look for an overflow in the model (float16?)"
    )


def test_id_error() -> None:
    store, ids = exact(), torch.tensor([[[7]], [[0]]])
    message = raised(IdError, lambda: store.values(ids))
    assert message == (
        "id 7 is not in this store, which holds nothing: it was never added: the next key "
        "gets id 0 (next_id)"
    )
    store.start_at(2)
    store.add(torch.ones(2, 7, 4), torch.ones(2, 7, 4))
    store.forget(6)
    message = raised(IdError, lambda: store.keys(ids))
    assert message == (
        "id 7 is not in this store, which holds 8 to 8: it was forgotten, like all ids "
        "before 8; look keys up before that"
    )
    for outside, reason in (
        (0, "it was never added: ids of this store begin at 2 (first_id)"),
        (9, "it was never added: the next key gets id 9 (next_id)"),
        (-3, "ids are not negative; search returns -1 where it found no hit"),
    ):
        message = raised(IdError, lambda: store.keys(torch.full((2, 1, 1), outside)))  # noqa: B023
        assert message == f"id {outside} is not in this store, which holds 8 to 8: {reason}"


def test_option_error() -> None:
    message = raised(OptionError, lambda: exact().search(torch.ones(2, 1, 4), 0))
    assert message == "top_k must be an integer of at least 1, got 0"
    unknown = OptionError.unknown("nlst", "store 'x'", ["nprobe", "nlist"])
    assert str(unknown) == (
        "store 'x' has no option 'nlst'; did you mean 'nlist'? (its options are: nlist, nprobe)"
    )


def test_many_names_are_not_listed_beside_a_suggestion() -> None:
    names = ["test_a", *(f"test_{each}" for each in range(100, 130))]
    unknown = OptionError.unknown("test_aa", "the contract", names, kind="test")
    assert str(unknown) == "the contract has no test 'test_aa'; did you mean 'test_a'?"
    assert str(OptionError.unknown("?", "x", names)).endswith(
        "; its options are: " + ", ".join(sorted(names))
    )


def test_parts_of_names_are_understood() -> None:
    unknown = OptionError.unknown("ef", "x", ["M", "ef_construction", "ef_search", "seed"])
    assert "did you mean 'ef_construction' or 'ef_search'?" in str(unknown)


def test_unknown_store_error() -> None:
    message = raised(
        UnknownStoreError,
        lambda: fotmem.create_store("exacts", num_heads=1, head_dim=1),
    )
    assert message.startswith("no store is named 'exacts'; did you mean 'exact'? (the stores are: ")


def test_missing_package_error() -> None:
    spec = AdapterSpec(
        name="other",
        architectures=("Other",),
        factory=dict,
        requires=("not_there",),
        install="pip install 'fotmem[other]'",
    )
    assert raised(MissingPackageError, spec.require) == (
        "'other' is not available here: needs not_there, not installed: pip install 'fotmem[other]'"
    )


def test_layer_error(model: LlamaForCausalLM) -> None:
    message = raised(LayerError, lambda: fotmem.attach(model, layers=[1, 2]))
    assert message == "layers must be from 0 to 1, got 2"
    message = raised(LayerError, lambda: fotmem.attach(model))
    assert "pass layers=[17, 18, ...]" in message


def test_model_error() -> None:
    message = raised(ModelError, lambda: fotmem.attach(nn.Linear(2, 2), layers=[0]))
    assert message.startswith("no adapter knows Linear; `fotmem models` lists the families")
    [page] = re.findall(r"the page '(.+?)'", message)
    assert f"- {page}: adapters.md" in (Path(__file__).parents[1] / "mkdocs.yml").read_text("utf-8")


def test_checkpoint_error(tmp_path: Path) -> None:
    message = raised(CheckpointError, lambda: fotmem.load_longllama(tmp_path))
    assert (
        message
        == f"{tmp_path} is not a checkpoint: it has no config.json; pass the folder that has one"
    )
    config = tmp_path / "config.json"
    config.write_text('{"model_type": "llama"}', encoding="utf-8")
    message = raised(CheckpointError, lambda: fotmem.load_longllama(tmp_path))
    assert f"{config} must have model_type 'longllama', got 'llama'; for other" in message


def test_attach_error(model: LlamaForCausalLM) -> None:
    with fotmem.attach(model, layers=[1]) as memory:
        message = raised(AttachError, lambda: fotmem.attach(model, layers=[1]))
        assert message == (
            "this model has a memory already; call its detach() first, or pass default=False for "
            "another memory, which fotmem.using() chooses"
        )
    message = raised(AttachError, lambda: memory.read(torch.tensor([1])))
    assert message == "this memory was detached from its model; attach again to read"


def test_unsupported_error(model: LlamaForCausalLM) -> None:
    with fotmem.attach(model, layers=[1]):
        message = raised(
            UnsupportedError,
            lambda: model(torch.tensor([[1]]), output_attentions=True),
        )
    assert message == (
        "output_attentions cannot be used while a memory is attached; "
        "memory.explain() shows where attention went"
    )


def test_input_error(model: LlamaForCausalLM) -> None:
    with fotmem.attach(model, layers=[1]) as memory:
        message = raised(InputError, lambda: memory.read(torch.tensor([3, 16])))
        assert len(memory) == 0
    assert message == (
        "input_ids must be from 0 to 15, got 16: were they made by this model's tokenizer?"
    )
