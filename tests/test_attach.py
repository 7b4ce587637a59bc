"""Attaching and detaching: what is refused, and that no trace is left."""

import copy
import json
import re
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import fotmem
from fotmem import Memory
from fotmem.errors import (
    AttachError,
    DtypeError,
    InputError,
    LayerError,
    ModelError,
    OptionError,
    UnknownStoreError,
    UnsupportedError,
)
from tests import tiny
from tests.tiny import (  # noqa: F401 - `one_thread` is a fixture
    LAYERS,
    WINDOW,
    generate,
    one_thread,
)
from tests.traces import assert_untouched, snapshot


def use(model: Any, memory: Memory) -> None:
    memory.read(tiny.ids(40))
    model(tiny.ids(40))
    generate(model, tiny.ids(9), 12, num_beams=2)


def test_detach_leaves_no_trace() -> None:
    model = tiny.llama()
    plain = generate(model, tiny.ids(30), 12)
    before = snapshot(model)
    memory = fotmem.attach(model, layers=LAYERS, window=WINDOW)
    use(model, memory)
    memory.detach()
    assert_untouched(model, before)
    assert torch.equal(generate(model, tiny.ids(30), 12), plain)


def test_the_context_manager_always_detaches() -> None:
    model = tiny.llama()
    before = snapshot(model)

    def fail() -> None:
        with fotmem.attach(model, layers=LAYERS, window=WINDOW) as memory:
            assert isinstance(memory, Memory)
            assert memory.attached
            use(model, memory)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert_untouched(model, before)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"layers": None}, LayerError, r"no memory layers are known for this model.*pass layers="),
        ({"layers": []}, LayerError, "at least one memory layer, got none"),
        ({"layers": [1, 4]}, LayerError, "layers must be from 0 to 3, got 4"),
        ({"layers": [-1]}, LayerError, "layers must be from 0 to 3, got -1"),
        ({"layers": [1.5]}, LayerError, r"must be integers such as \[17, 18\], got \[1.5\]"),
        ({"layers": 3}, LayerError, "must be integers such as .*, got 3"),
        ({"layers": [True]}, LayerError, r"must be integers such as .*, got \[True\]"),
        ({"layers": [np.True_]}, LayerError, r"must be integers such as .*, got \[np.True_\]"),
        ({"layers": {1: "a", "b": 2}}, LayerError, r"must be integers such as .*, got \{1"),
        ({"layers": [1, 3, 1]}, LayerError, r"name each memory layer once, got \[1, 1, 3\]"),
        ({"layers": None, "store": {True: "exact"}}, LayerError, "must be integers such as"),
        ({"layers": "14-25"}, LayerError, "must be integers such as .*, got '14-25'"),
        ({"store": "exat"}, UnknownStoreError, "no store is named 'exat'; did you mean 'exact'"),
        ({"store": {1: "exact"}}, OptionError, r"names layers \[1\], but the memory .* \[1, 3\]"),
        ({"store": {1: "exact", 3: "hnws"}}, UnknownStoreError, "no store is named 'hnws'"),
        (
            {"store": {1: "exact", 3: ["exact"]}},
            UnknownStoreError,
            r"no store is named \['exact'\]",
        ),
        ({"nprobe": 3}, OptionError, "store 'exact' has no option 'nprobe'"),
        ({"store": {1: "exact", "b": "exact"}}, OptionError, "for each of these, and for no other"),
        ({"top_k": True}, OptionError, "top_k must be an integer of at least 1, .* got True"),
        ({"top_k": torch.ones(2)}, OptionError, "top_k must be an integer of at least 1, or"),
        ({"window": True}, OptionError, "window must be an integer, got True"),
        ({"distance": -7}, OptionError, "distance must be from 0 to 63, got -7"),
        ({"distance": True}, OptionError, "distance must be an integer, got True"),
        ({"decay": -5}, OptionError, "decay must be .* at least 0, got -5"),
        ({"decay": True}, OptionError, "decay must be .* at least 0, got True"),
        ({"decay": 10**400}, OptionError, "decay must be a finite number"),
        ({"temperature": -1}, OptionError, "temperature must be .* above 0, got -1"),
        ({"temperature": np.nan}, OptionError, "temperature must be .* above 0, got nan"),
        ({"temperature": np.True_}, OptionError, "temperature must be .* got np.True_"),
        ({"last_context_length": True}, OptionError, "must be an integer, got True"),
        ({"top_k": 0}, OptionError, "top_k must be an integer of at least 1, or None for all, got"),
        ({"window": 1}, OptionError, "window must be at least 2 tokens, got 1"),
        ({"window": 1.5}, OptionError, "window must be an integer, got 1.5"),
        (
            {"window": 65},
            OptionError,
            r"at most the model's max_position_embeddings \(64\), got 65",
        ),
        ({"distance": -1}, OptionError, "distance must be from 0 to 63, got -1: the model"),
        ({"distance": 64}, OptionError, r"got 64: .* max_position_embeddings are 64"),
        ({"distance": 1.0}, OptionError, "distance must be an integer, got 1.0"),
        ({"decay": float("nan")}, OptionError, "decay must be a finite number, .* got nan"),
        ({"decay": -0.5}, OptionError, "decay must be .* at least 0, got -0.5"),
        ({"decay": "1"}, OptionError, "decay must be .* got '1'"),
        ({"decay": {1: -1}}, OptionError, "decay of layer 1 must be .* at least 0, got -1"),
        ({"decay": {"b": 1}}, OptionError, "a layer of decay must be an integer.*, got 'b'"),
        ({"decay": {1: 1, 2: 1}}, LayerError, r"decay names layer 2, .* layers are \[1, 3\]"),
        ({"temperature": 0}, OptionError, "temperature must be a finite number above 0, got 0"),
        ({"temperature": float("inf")}, OptionError, "temperature must be .* got inf"),
        ({"temperature": True}, OptionError, "temperature must be .* got True"),
        ({"last_context_length": 17}, OptionError, r"from 1 to the window \(16\), got 17"),
        ({"last_context_length": 0}, OptionError, r"from 1 to the window \(16\), got 0"),
        ({"last_context_length": "8"}, OptionError, "must be an integer, got '8'"),
        ({"dtype": torch.float64}, DtypeError, "dtype must be float32, .* got torch.float64"),
    ],
)
def test_a_failed_attach_leaves_no_trace(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    model = tiny.llama()
    before = snapshot(model)
    with pytest.raises(error, match=message):
        fotmem.attach(model, **{"layers": LAYERS, "window": WINDOW, **options})
    assert_untouched(model, before)


def test_numbers_of_numpy_and_torch_are_accepted() -> None:
    model, overlap = tiny.llama(), np.uint8(3)
    numbers: dict[str, Any] = {
        "layers": np.array(LAYERS),
        "window": np.int64(WINDOW),
        "last_context_length": np.uint8(5),
        "top_k": torch.tensor(7),
        "distance": np.uint8(9),
        "decay": np.float32(0.5),
        "temperature": np.float64(2),
    }
    with fotmem.attach(model, **numbers) as memory:
        memory.read(tiny.ids(40), overlap=cast(int, overlap))
        assert model(tiny.ids(40)).logits.isfinite().all()
        assert [type(number) for number in (memory.top_k, memory.distance)] == [int, int]
        assert (memory.layers, memory.top_k, memory.distance) == (LAYERS, 7, 9)
        assert (memory.decay, memory.temperature) == (0.5, 2.0)


def rope(kind: str, **parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, "factor": 2.0, **parameters}}


def test_rope_that_depends_on_the_length_is_refused() -> None:
    """As in `load_longllama`."""
    with pytest.raises(UnsupportedError, match=r"^RoPE of type 'dynamic' .* to 'default'"):
        fotmem.attach(tiny.llama(**rope("dynamic")), layers=LAYERS)
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    phi: dict[str, Any] = rope("longrope", original_max_position_embeddings=32, **factors)
    beyond: list[dict[str, Any]] = [{"window": 33}, {"window": 16, "distance": 32}, {}]
    for far in beyond:
        with pytest.raises(UnsupportedError, match=r"^RoPE of type 'longrope' beyond 32 positions"):
            fotmem.attach(tiny.llama(**phi), layers=LAYERS, **far)
    model = tiny.llama(**phi)
    with fotmem.attach(model, layers=LAYERS, window=32, distance=31) as memory:
        use(model, memory)


def test_models_without_weights_are_refused() -> None:
    for name in ("", "model.layers.3.self_attn"):
        model = tiny.llama()
        part: Any = model.get_submodule(name)
        part.to("meta")
        with pytest.raises(UnsupportedError, match=r"^a model without weights \(.* meta device"):
            fotmem.attach(model, layers=LAYERS)
        assert "forward" not in vars(model.model)


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_dynamically_quantised_models_work() -> None:
    quantize: Any = torch.ao.quantization.quantize_dynamic
    model = quantize(tiny.llama(), {nn.Linear}, dtype=torch.qint8)
    question = tiny.ids(9, seed=1)
    plain = model(question).logits
    with fotmem.attach(model, layers=LAYERS, window=WINDOW) as memory:
        assert torch.equal(model(question).logits, plain)
        memory.read(tiny.ids(40))
        near = model(question).logits
        assert not torch.equal(near, plain)
    with fotmem.attach(tiny.llama(), layers=LAYERS, window=WINDOW) as memory:
        memory.read(tiny.ids(40))
        exact = (
            memory.attached_model.decoder(question).last_hidden_state
            @ tiny.llama().lm_head.weight.T
        )
    assert (near - exact).abs().max() < 0.2 * exact.abs().max()


CONFIG = """
[memory]
store = "faiss-ivf"
layers = [1, 3]
top_k = 7
window = 20
last_context_length = 9
distance = 5
decay = 1
temperature = 0.5
dtype = "bfloat16"

[memory.options]
nprobe = 3
"""


def test_a_config_file_sets_every_argument_of_attach(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    file = tmp_path / "fotmem.toml"
    file.write_text(CONFIG)
    with fotmem.attach(tiny.llama(), config=file) as memory:
        assert (memory.layers, memory.top_k, memory.distance) == (LAYERS, 7, 5)
        assert (memory.options.window, memory.options.last_context_length) == (20, 9)
        assert (memory.decay, memory.temperature) == (1, 0.5)
        assert memory.store(1).dtype == torch.bfloat16
        assert memory.store(1).options.nprobe == 3  # type: ignore[attr-defined]
    given: dict[str, Any] = {"layers": [0], "top_k": None, "window": 16, "last_context_length": 8}
    with fotmem.attach(tiny.llama(), config=file, **given, decay=0, dtype=torch.float32) as memory:
        assert (memory.layers, memory.top_k, memory.distance) == ((0,), None, 5)
        assert (memory.options.window, memory.options.last_context_length) == (16, 8)
        assert (memory.decay, memory.temperature) == (0, 0.5)
        assert memory.store(0).dtype == torch.float32
    file.write_text('[memory]\nstore = "exact"\ntop_k = "all"\n')
    with fotmem.attach(tiny.llama(), config=str(file), layers=LAYERS) as memory:
        assert memory.top_k is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("topk = 3", r"memory.topk: .*did you mean 'top_k'\?"),
        ("windows = 3", r"memory.windows: .*did you mean 'window'\?"),
        ("xyz = 3", "memory.xyz: Extra inputs are not permitted.: expected .*top_k, window"),
        ("top_k = 0", "memory.top_k"),
        ("top_k = true", "memory.top_k"),
        ('top_k = "some"', "memory.top_k"),
        ("window = 1", "memory.window: "),
        ("window = 2.0", "memory.window: "),
        ("distance = -1", "memory.distance: "),
        ("decay = nan", "memory.decay: "),
        ("decay = -1", "memory.decay: "),
        ("temperature = 0", "memory.temperature: "),
        ("temperature = inf", "memory.temperature: "),
        ("layers = []", "memory.layers: "),
        ("layers = [true]", "memory.layers.0: "),
        ('dtype = "float64"', "memory.dtype: "),
        (
            "[memory.options]\nwindow = 3",
            r"window in \[memory.options\], .* write it in \[memory\]",
        ),
        ("[predictet]", r"predictet: .*did you mean 'predicted'\?"),
    ],
)
def test_values_in_a_config_file_are_checked(line: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "fotmem.toml"
    file.write_text(f'[memory]\nstore = "exact"\n{line}\n')
    with pytest.raises(InputError, match=message):
        fotmem.attach(tiny.llama(), config=file, layers=LAYERS)


@pytest.mark.parametrize("config", [5, b"x", ["fotmem.toml"], True])
def test_config_must_be_a_path(config: Any) -> None:
    with pytest.raises(
        OptionError, match=r"config must be the path of a file such as fotmem\.toml"
    ):
        fotmem.attach(tiny.llama(), config=config)


def test_a_config_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "garbage").write_bytes(b"\xff\x00garbage")
    for path in (tmp_path, tmp_path / "none", tmp_path / "garbage"):
        with pytest.raises(InputError, match=re.escape(str(path))):
            fotmem.attach(tiny.llama(), config=path)


def test_attaching_twice_is_refused() -> None:
    model = tiny.llama()
    memory = fotmem.attach(model, layers=LAYERS, window=WINDOW)
    with pytest.raises(AttachError, match=r"has a memory already; call its detach\(\) first"):
        fotmem.attach(model, layers=[0])
    use(model, memory)  # unharmed
    memory.detach()
    with fotmem.attach(model, layers=[0]) as other:
        assert other.layers == (0,)


def test_defaults() -> None:
    model = tiny.llama(max_position_embeddings=4096, mem_layers=[3, 0])
    with fotmem.attach(model) as memory:
        assert memory.layers == (0, 3)
        assert memory.top_k == 32
        assert memory.options.window == memory.options.split_above == 2048
        assert memory.options.last_context_length == 1024
        assert memory.store(0).dtype == torch.float32
        assert (memory.distance, memory.decay, memory.temperature) == (0, 0, 1)
    weighing: dict[str, Any] = {"mem_decay": 0.5, "mem_temperature": 0.25}
    with fotmem.attach(tiny.llama(mem_layers=[1], mem_distance=50, **weighing)) as memory:
        assert (memory.distance, memory.options.window, memory.decay, memory.temperature) == (
            50,
            64,
            0.5,
            0.25,
        )
    with fotmem.attach(tiny.llama(), store={2: "exact"}, dtype=torch.bfloat16) as memory:
        assert memory.layers == (2,)
        assert memory.options.window == 64
        assert memory.store(2).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "build",
    [
        lambda: T5ForConditionalGeneration(
            T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
        ),
        lambda: GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=2)),
        lambda: nn.Linear(2, 2),
        lambda: "smollm2",
        lambda: None,
    ],
)
def test_the_error_for_another_model_names_where_families_are_listed(build: Any) -> None:
    model = build()
    with pytest.raises(ModelError, match=rf"{type(model).__name__}; `fotmem models` lists"):
        fotmem.attach(model, layers=[0])


def test_double_precision_is_refused() -> None:
    with pytest.raises(DtypeError, match=r"the model must be float32, .* got torch.float64"):
        fotmem.attach(tiny.llama(dtype=torch.float64), layers=LAYERS)


def test_a_subclass_is_a_llama() -> None:
    class MyLlama(LlamaForCausalLM):
        pass

    model = MyLlama(tiny.llama().config)
    with fotmem.attach(model, layers=LAYERS, window=WINDOW) as memory:
        use(model, memory)


@pytest.mark.parametrize("variant", ["gqa", "tied"])
def test_saving_while_attached_saves_the_plain_model(tmp_path: Path, variant: str) -> None:
    model = tiny.llama(variant)
    plain = model(tiny.ids(20)).logits
    model.save_pretrained(tmp_path / "before")
    with fotmem.attach(model, layers=LAYERS, window=WINDOW) as memory:
        use(model, memory)
        model.save_pretrained(tmp_path / "attached")
    assert model.state_dict().keys() == tiny.llama(variant).state_dict().keys()
    for file in (tmp_path / "before").iterdir():
        assert file.read_bytes() == (tmp_path / "attached" / file.name).read_bytes()
    loaded = LlamaForCausalLM.from_pretrained(tmp_path / "attached")
    assert torch.equal(loaded(tiny.ids(20)).logits, plain)
    config = (tmp_path / "attached" / "config.json").read_text()
    assert not any("mem" in key or "fot" in key for key in json.loads(config))
    with pytest.raises(LayerError, match="no mem_layers"):
        fotmem.attach(loaded)


def test_a_deep_copy_is_a_plain_model() -> None:
    model = tiny.llama()
    plain, question = generate(model, tiny.ids(30), 12), tiny.ids(9)
    with fotmem.attach(model, layers=LAYERS, window=WINDOW) as memory:
        memory.read(tiny.ids(40))
        twin = copy.deepcopy(model)
        assert torch.equal(generate(twin, tiny.ids(30), 12), plain)
        assert generate(twin, question, 4, prompt_lookup_num_tokens=2).shape == (1, 13)
        with fotmem.attach(twin, layers=[0], window=WINDOW, top_k=None) as other:
            other.read(tiny.ids(20))
            fresh = tiny.llama()
            fotmem.attach(fresh, layers=[0], window=WINDOW, top_k=None).read(tiny.ids(20))
            assert torch.equal(twin(question).logits, fresh(question).logits)
            assert len(memory) == 40
    assert torch.equal(generate(twin, tiny.ids(30), 12), plain)
