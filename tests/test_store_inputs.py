"""What callers pass to stores: converted, or refused by an error that names the cure."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fotmem import FotmemError, available_stores, create_store
from fotmem.errors import (
    DtypeError,
    NonFiniteError,
    OptionError,
    ShapeError,
    StorageError,
    UnknownStoreError,
)
from fotmem.stores import MemoryStore, StoreOptions
from fotmem.testing.store.naive import draw
from fotmem_exact.store import ExactStore
from tests.plain_stores import PlainStore

HEADS, DIM = 2, 4
ROWS, QUERIES = draw(HEADS, 30, DIM), draw(HEADS, 3, DIM, seed=1)
STORES = ["exact", "faiss-flat", "faiss-ivf", "faiss-ivfpq", "faiss-hnsw", "hnsw", "zarr"]


def filled(name: str = "exact", **options: Any) -> MemoryStore:
    store = create_store(name, **{"num_heads": HEADS, "head_dim": DIM, **options})
    store.add(ROWS, ROWS)
    return store


NO_TENSORS: dict[str, tuple[Callable[[], Any], str]] = {
    "list": (QUERIES.tolist, r"torch\.Tensor, got <class 'list'>; .*as_tensor"),
    "None": (lambda: None, r"torch\.Tensor, got <class 'NoneType'>"),
    "numpy": (QUERIES.numpy, r"torch\.Tensor, got <class 'numpy.ndarray'>; .*as_tensor"),
    "sparse": (QUERIES.to_sparse, r"dense tensor, got torch\.sparse_coo; .*to_dense"),
    "mkldnn": (QUERIES.to_mkldnn, r"dense tensor, got torch\._mkldnn; .*to_dense"),
    "meta": (lambda: QUERIES.to("meta"), "tensor with data, got 'meta'; compute it on a device"),
    "nested": (
        lambda: torch.nested.nested_tensor(list(QUERIES), layout=torch.jagged),
        r"dense tensor, got 'nested'; convert with torch\.stack",
    ),
}
DTYPES: dict[str, tuple[Callable[[], Any], str]] = {
    "quantised": (
        lambda: torch.quantize_per_tensor(QUERIES, 0.1, 0, torch.qint8),
        r"float32, bfloat16, float16, got torch\.qint8; convert with \.dequantize\(\)",
    ),
    "complex": (lambda: QUERIES.to(torch.complex64), r"float32, .*got torch\.complex64; .*\.to\("),
    "bool": (lambda: QUERIES > 0, r"float32, bfloat16, float16, got torch\.bool"),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta:UserWarning")
@pytest.mark.filterwarnings("ignore:.*quantiz.*")
@pytest.mark.parametrize("kind", [*NO_TENSORS, *DTYPES])
def test_what_is_no_plain_tensor_is_refused_by_name(kind: str) -> None:
    store = filled("faiss-ivf")
    make, message = (NO_TENSORS | DTYPES)[kind]
    bad = make()
    calls: list[tuple[str, Callable[[], object]]] = [
        ("keys", lambda: store.add(bad, QUERIES)),
        ("values", lambda: store.add(QUERIES, bad)),
        ("queries", lambda: store.search(bad, 3)),
        ("queries", lambda: store.attend(bad, top_k=3, scale=0.5)),
        ("queries", lambda: store.share_read(bad, 3)),
    ]
    for name, call in calls:
        with pytest.raises(DtypeError, match=rf"^{name} must be (a )?{message}"):
            call()
    message = message if kind in NO_TENSORS else "int64, got torch"
    for look_up in (store.keys, store.values):
        with pytest.raises(DtypeError, match=rf"^ids must be (a )?{message}"):
            look_up(bad)
    assert len(store) == 30


def test_tensors_that_need_gradients_are_fine() -> None:
    store = filled()
    rows = torch.nn.Parameter(QUERIES.clone())
    store.add(rows, rows)
    assert not store.search(rows, 2).scores.requires_grad
    assert len(store) == 33


@pytest.mark.parametrize("scale", [0, -1.0, np.nan, np.inf, -np.inf, 10**400])
def test_scale_must_be_above_0_and_finite(scale: Any) -> None:
    for top_k in (3, None):
        with pytest.raises(OptionError, match=r"scale must be above 0 and finite, .*, got"):
            filled().attend(QUERIES, top_k=top_k, scale=scale)


@pytest.mark.parametrize("scale", [True, "1", None, [1.0], 1j, torch.tensor(0.5)])
def test_scale_must_be_a_number(scale: Any) -> None:
    with pytest.raises(OptionError, match=r"scale must be a number, .*; pass a float"):
        filled().attend(QUERIES, top_k=3, scale=scale)


def test_numbers_of_numpy_are_numbers() -> None:
    store = filled()
    expected = store.attend(QUERIES, top_k=3, scale=0.5)
    for scale in (np.float32(0.5), np.float64(0.5)):
        found = store.attend(QUERIES, top_k=np.int64(3), scale=scale)  # type: ignore[arg-type]
        assert torch.equal(found.out, expected.out)


BIASES: dict[str, tuple[Callable[[Tensor], Any], type[FotmemError], str]] = {
    "None": (lambda ids: None, DtypeError, r"a torch\.Tensor, got <class 'NoneType'>"),
    "list": (lambda ids: ids.tolist(), DtypeError, r"a torch\.Tensor, got <class 'list'>"),
    "int": (lambda ids: ids, DtypeError, r"float32, got torch\.int64"),
    "double": (lambda ids: ids.double(), DtypeError, r"float32, got torch\.float64"),
    "shape": (lambda ids: torch.zeros(1), ShapeError, r"have shape \[.*\] as the ids"),
    "NaN": (lambda ids: torch.full(ids.shape, torch.nan), NonFiniteError, "be finite"),
    "Inf": (lambda ids: torch.full(ids.shape, torch.inf), NonFiniteError, "be finite"),
    "meta": (lambda ids: torch.zeros(ids.shape, device="meta"), DtypeError, "tensor with data"),
}


@pytest.mark.parametrize("bad", BIASES)
@pytest.mark.parametrize("name", STORES)
def test_what_a_bias_returns_is_checked(name: str, bad: str) -> None:
    store, (bias, error, message) = filled(name), BIASES[bad]
    for call in (
        lambda: store.search(QUERIES, 2, bias=bias),
        lambda: store.attend(QUERIES, top_k=2, scale=0.5, bias=bias),
        lambda: store.attend(QUERIES, top_k=None, scale=0.5, bias=bias),
    ):
        with pytest.raises(error, match=rf"what bias returns must (be )?(a )?{message}"):
            call()


@pytest.mark.parametrize("bias", [5, "x", torch.zeros(3)])
def test_a_bias_must_be_callable(bias: Any) -> None:
    store = filled()
    with pytest.raises(OptionError, match="bias must be None, or a function that takes ids"):
        store.search(QUERIES, 2, bias=bias)
    with pytest.raises(OptionError, match="bias must be None, or a function that takes ids"):
        store.attend(QUERIES, top_k=None, scale=0.5, bias=bias)


def test_no_gradient_comes_from_a_bias() -> None:
    weight = torch.ones((), requires_grad=True)
    hits = filled().search(QUERIES, 2, bias=lambda ids: weight * torch.zeros(ids.shape))
    assert not hits.scores.requires_grad


@pytest.mark.parametrize("name", STORES)
def test_ids_never_go_beyond_int64(name: str) -> None:
    store = create_store(name, num_heads=HEADS, head_dim=DIM)
    for first_id in (2**63 - 1, 2**63, 2**70):
        with pytest.raises(OptionError, match="first_id must be at most 9,223,372,036,854,775,806"):
            store.start_at(first_id)
    store.start_at(2**63 - 4)
    with pytest.raises(OptionError, match="ids must be below 9223372036854775807, got 30 keys for"):
        store.add(ROWS, ROWS)
    store.add(ROWS[:, :3], ROWS[:, :3])
    with pytest.raises(OptionError, match="let it start at a smaller first_id"):
        store.add(ROWS[:, :1], ROWS[:, :1])
    assert len(store) == 3
    hits = store.search(QUERIES, 3)
    assert set(hits.ids.unique().tolist()) == {2**63 - 4, 2**63 - 3, 2**63 - 2}
    last = torch.full((HEADS, 1, 1), 2**63 - 2)
    assert torch.equal(store.keys(last)[:, 0, 0], ROWS[:, 2])
    store.attend(QUERIES, top_k=None, scale=0.5, bias=lambda ids: torch.zeros(ids.shape))


INTEGERS = [
    (spec.name, name)
    for spec in available_stores().values()
    for name, field in spec.options.model_fields.items()
    if field.annotation in (int, int | None)
]


@pytest.mark.parametrize("bad", [True, 64.0, 64.5, "64", np.True_, 2**70, -1], ids=repr)
@pytest.mark.parametrize("name, option", INTEGERS)
def test_options_that_are_integers_take_nothing_else(name: str, option: str, bad: Any) -> None:
    with pytest.raises(OptionError, match=f"option {option!r} of store {name!r}( must be|:) "):
        create_store(name, num_heads=HEADS, head_dim=DIM, **{option: bad})
    given: dict[str, Any] = {option: np.int64(64)}
    store = create_store(name, num_heads=HEADS, head_dim=DIM, **given)
    if option in store.search_options:
        with pytest.raises(OptionError, match=f"option {option!r} of this store( must be|:) "):
            store.tune(**{option: bad})
        assert getattr(getattr(store, "options"), option) == 64  # noqa: B009
    with pytest.raises(ValueError, match=option):
        available_stores()[name].options(**{option: bad})


def test_there_are_integer_options() -> None:
    assert len(INTEGERS) > 10


@pytest.mark.parametrize(
    "given", [{"share": "0.5"}, {"share": True}, {"exact": 1}, {"exact": "yes"}, {"exact": 0.0}]
)
def test_options_of_others_are_as_strict(given: dict[str, Any]) -> None:
    class Options(StoreOptions):
        share: float = 0.5
        exact: bool = False
        place: Path = Path()

    with pytest.raises(ValueError, match=next(iter(given))):
        Options(**given)
    options = Options(share=1, exact=True, place="folder")  # type: ignore[arg-type]
    assert (options.share, options.exact, options.place) == (1.0, True, Path("folder"))


@pytest.mark.parametrize("device", ["nonsense", "", 5, None, b"cpu", ["cpu"]])
def test_a_device_must_be_named(device: Any) -> None:
    for make in (filled, PlainStore):
        with pytest.raises(OptionError, match=r"device must name a torch device, got .*'cuda:0'"):
            make(**{"num_heads": HEADS, "head_dim": DIM, "device": device})


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps", "xla", "meta"])
def test_a_device_must_be_here(device: str) -> None:
    if device.startswith("cuda") and torch.cuda.is_available():
        device = "cuda:99"
    reason = f"'{device}' cannot be used here .*; there is 'cpu'|one that keeps data"
    with pytest.raises(OptionError, match=reason):
        PlainStore(num_heads=HEADS, head_dim=DIM, device=device)
    for name in STORES:
        with pytest.raises(OptionError, match=rf"device '?{device}'?|'{device}' cannot be used"):
            create_store(name, num_heads=HEADS, head_dim=DIM, device=device)


@pytest.mark.parametrize("bad", [0, -1, True, 1.5, "3", None, 2**31, 2**70, [1]], ids=repr)
@pytest.mark.parametrize("name", ["num_heads", "head_dim"])
def test_heads_and_dimensions_are_integers_of_at_least_1(name: str, bad: Any) -> None:
    for make in (ExactStore, PlainStore, filled):
        with pytest.raises(OptionError, match=rf"{name} must be (an integer of at least|at most)"):
            make(**{"num_heads": HEADS, "head_dim": DIM, name: bad})
    given: dict[str, Any] = {"num_heads": 1, "head_dim": 1, name: np.int64(2)}
    store = create_store("exact", **given)
    assert type(getattr(store, name)) is int


@pytest.mark.parametrize("dtype", ["float32", None, np.float32, torch.int8, 5], ids=repr)
@pytest.mark.parametrize("name", STORES)
def test_a_dtype_is_one_of_torch(name: str, dtype: Any) -> None:
    message = r"dtype must be float32, bfloat16, float16, got .*; pass a torch\.dtype, such as"
    with pytest.raises(DtypeError, match=message):
        create_store(name, num_heads=HEADS, head_dim=DIM, dtype=dtype)


@pytest.mark.parametrize("directory", [5, b"store", "", b"", ["store"], {}, True, 1.5])
@pytest.mark.parametrize("name", ["zarr", "exact"])
def test_a_directory_is_a_path_or_a_url(
    name: str, directory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=r"directory must be a path or a URL, .*; None keeps"):
        create_store(name, num_heads=HEADS, head_dim=DIM, directory=directory)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [None, 5, b"exact", ["exact"], {}, "EXACT", ""])
def test_the_name_of_a_store_must_be_a_string(name: Any) -> None:
    with pytest.raises(UnknownStoreError, match=r"no store is named .*the stores are: .*exact"):
        create_store(name, num_heads=HEADS, head_dim=DIM)


@pytest.mark.parametrize("options", [{"keys": "mmap"}, {"values": "mmap"}])
@pytest.mark.parametrize("name", ["faiss-ivf", "hnsw"])
def test_mmap_needs_a_folder_for_files(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = create_store(name, num_heads=HEADS, head_dim=DIM, **options)
    for where in ("/no/such/folder", "/dev/null", None):
        monkeypatch.setattr(tempfile, "tempdir", where)
        if where is None:  # nowhere at all
            monkeypatch.setattr(tempfile, "_candidate_tempdir_list", list)
        with pytest.raises(StorageError, match=r"no room for .* in .*: let TMPDIR name a folder"):
            store.add(ROWS, ROWS)
        assert len(store) == 0
    monkeypatch.undo()
    store.add(ROWS, ROWS)
    assert torch.equal(store.keys(torch.arange(30).expand(HEADS, 1, -1))[:, 0], ROWS)


def test_files_for_mmap_have_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = filled("hnsw", keys="mmap", values="mmap")
    assert list(tmp_path.iterdir()) == []
    assert len(store) == 30
