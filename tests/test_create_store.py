import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import fotmem
from fotmem import create_store
from fotmem.errors import DtypeError, MissingPackageError, OptionError, UnknownStoreError
from fotmem.plugin import create as plugin_create
from fotmem.plugin import registry
from fotmem.testing.store.naive import draw
from tests.plugins import hook, install

OPTIONS = """
from typing import Literal
from pydantic import Field, model_validator

class Options(StoreOptions):
    nlist: int = Field(64, ge=1)
    metric: Literal["ip", "l2"] = "ip"
    nprobe: int = 4

    @model_validator(mode="after")
    def check(self):
        if self.nprobe > self.nlist:
            raise ValueError(f"nprobe ({self.nprobe}) must not exceed nlist ({self.nlist})")
        return self

class Unhashable:
    __hash__ = None
    def __call__(self, **arguments):
        return build(**arguments)

disk = StoreCapabilities(exact=True, persistent=True)
"""
SPECS = """[
    spec("ivf-store", options=Options, factory=Unhashable()),
    spec("disk-store", capabilities=disk),
    spec("absent", requires=("not_there",), install="pip install cure"),
    spec("no-module", factory="third_party.gone:Store"),
    spec("no-name", factory="third_party.plugin:Gone"),
    spec("no-callable", factory="third_party.plugin:disk"),
    spec("no-store", factory="builtins:dict"),
    spec("raises", factory="third_party.broken:Store"),
    spec("outdated", factory="third_party.outdated:Store"),
    spec("near-module", factory="third_party.stores:NearStore"),
    spec("near-name", factory="third_party.store:NeerStore"),
    spec("no-directory", factory="third_party.store:NearStore", capabilities=disk),
    spec("no-options", factory="third_party.store:NearStore", options=Options),
    spec("lacks-options", factory="third_party.store:OptionStore"),
    spec("misspelt", factory="third_party.store:MisspeltStore", options=Options),
]"""
STORE = """
from fotmem_exact.store import ExactStore

class NearStore(ExactStore):
    def __init__(self, **layer):
        super().__init__(**layer)

class OptionStore(ExactStore):
    def __init__(self, *, options, **layer):
        super().__init__(**layer)

class MisspeltStore(OptionStore):
    search_options = frozenset({"probe"})
"""
ADAPTERS = """[
    AdapterSpec(name="broken", architectures=("X",), factory="third_party.gone:X"),
    AdapterSpec(name="no-adapter", architectures=("X",), factory="builtins:dict"),
]"""


@pytest.fixture(autouse=True)
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "third_party", OPTIONS + hook(SPECS) + hook(ADAPTERS, "fotmem_adapters"))
    (tmp_path / "third_party/broken.py").write_text("raise RuntimeError('boom,\\n twice')")
    (tmp_path / "third_party/outdated.py").write_text("import numpy\nnumpy.no_such_dtype")
    (tmp_path / "third_party/store.py").write_text(STORE)
    monkeypatch.syspath_prepend(tmp_path)
    fresh = registry.Registry()
    for module in (registry, plugin_create):
        monkeypatch.setattr(module, "registry", lambda: fresh)
    for name in ("third_party", "third_party.plugin", "third_party.store"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert fresh.problems == []


def create(name: str, **options: Any) -> Any:
    return create_store(name, **{"num_heads": 2, "head_dim": 8, **options})


def test_the_factory_gets_clean_arguments(tmp_path: Path) -> None:
    arguments = create("ivf-store", nprobe=2, dtype=torch.float16).arguments
    options = arguments.pop("options")
    assert (type(options).__name__, options.nlist, options.nprobe) == ("Options", 64, 2)
    layer = {"num_heads": 2, "head_dim": 8, "device": torch.device("cpu")}
    assert arguments == layer | {"dtype": torch.float16}
    # No options where a spec names no model of them, a directory only where it is persistent.
    directory = {"dtype": torch.float32, "directory": None}
    assert create("disk-store").arguments == layer | directory
    assert create("disk-store", directory=str(tmp_path)).arguments["directory"] == tmp_path
    url = "s3://bucket//a"  # a path would lose slashes
    assert create("disk-store", directory=url).arguments["directory"] == url
    with pytest.raises(ValueError, match="frozen"):
        options.nlist = 3


@pytest.mark.parametrize(
    "options, message",
    [
        ({"nlst": 3}, r"store 'ivf-store' has no option 'nlst'; did you mean 'nlist'\?"),
        ({"zzz": 3}, r"no option 'zzz'; its options are: metric, nlist, nprobe"),
        ({"NLIST": 3}, r"no option 'NLIST'; did you mean 'nlist'\?"),
        ({"li": 3}, r"no option 'li'; did you mean 'nlist'\?"),
        (
            {"nlist": 0},
            r"option 'nlist' of store 'ivf-store' must be at least 1, got 0",
        ),
        (
            {"nlist": "many"},
            r"option 'nlist' of store 'ivf-store' must be .* integer.*, got 'many'",
        ),
        ({"metric": "cosine"}, r"option 'metric' of .* must be 'ip' or 'l2', got 'cosine'"),
        ({"nprobe": 65}, r"nprobe \(65\) must not exceed nlist \(64\)"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        create("ivf-store", **options)


def test_the_exact_store_has_no_options() -> None:
    with pytest.raises(OptionError, match="'exact' has no option 'nlist'; its options are: none"):
        create("exact", nlist=4)


@pytest.mark.parametrize(
    "name, message",
    [
        (
            "exakt",
            r"no store is named 'exakt'; did you mean 'exact'\? \(the stores are: absent, ",
        ),
        ("qqq", r"no store is named 'qqq'; the stores are: absent, .*ivf-store"),
        ("qqq", r"; if you wrote it, run pip install -e \. in its folder$"),
        ("./exact", r"; give the store's name, not a folder$"),
        (None, r"no store is named None"),
    ],
)
def test_an_unknown_store_names_the_closest(name: Any, message: str) -> None:
    with pytest.raises(UnknownStoreError, match=message):
        create(name)


def test_a_store_without_its_package_says_what_to_install() -> None:
    message = "'absent' is not available here: needs not_there, not installed: pip install cure"
    with pytest.raises(MissingPackageError, match=message):
        create("absent")


CORRECT, REINSTALL = (
    "correct factory in its StoreSpec",
    "install that plugin again, or tell its author",
)
BROKEN = [
    ("no-module", "third_party.gone:Store", "ModuleNotFoundError: No module named", CORRECT),
    ("no-name", "third_party.plugin:Gone", "AttributeError: ", CORRECT),
    ("near-module", "third_party.stores:NearStore", "Module", f"{CORRECT}; did you mean 'store'?"),
    ("near-name", "third_party.store:NeerStore", "Attr", f"{CORRECT}; did you mean 'NearStore'?"),
    ("no-callable", "third_party.plugin:disk", "TypeError: a StoreCapabilities, which", REINSTALL),
    ("outdated", "third_party.outdated:Store", "AttributeError: module 'numpy'", REINSTALL),
    ("raises", "third_party.broken:Store", "RuntimeError: boom, twice", REINSTALL),
]


@pytest.mark.parametrize("name, factory, reason, cure", BROKEN)
def test_a_factory_that_cannot_be_imported_is_named(
    name: str, factory: str, reason: str, cure: str
) -> None:
    with pytest.raises(MissingPackageError) as error:
        create(name)
    message = str(error.value)
    assert message.startswith(
        f"{name!r} is not available here: {factory} of plugin 'third_party' cannot be imported "
        f"({reason}"
    )
    assert message.endswith(f"); {cure}")


@pytest.mark.parametrize(
    "name, message",
    [
        ("no-directory", "dtype, device, directory: .*; take directory in its __init__"),
        ("no-options", "dtype, device, options: .*; take options in its __init__"),
        ("lacks-options", "dtype, device: .*missing .* 'options'; name the model of its options"),
        ("misspelt", "search_options of MisspeltStore: .* 'probe'; did you mean 'nprobe'"),
    ],
)
def test_a_class_that_does_not_fit_its_spec_is_refused(name: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        create(name)


def test_a_factory_must_return_a_store_or_an_adapter() -> None:
    with pytest.raises(OptionError, match="'no-store', of plugin 'third_party', must return Mem"):
        create("no-store")
    adapters = fotmem.available_adapters()
    with pytest.raises(OptionError, match=r"'no-adapter', .* must return Adapter, got dict; tell"):
        plugin_create.create_adapter(adapters["no-adapter"])
    with pytest.raises(MissingPackageError, match=r"third_party\.gone:X of plugin 'third_party'"):
        plugin_create.create_adapter(adapters["broken"])


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"directory": "/tmp/x"}, OptionError, "'exact' lives in memory .* got '/tmp/x'"),
        ({"num_heads": 0}, OptionError, "num_heads must be an integer of at least 1, got 0"),
        ({"head_dim": 2.5}, OptionError, r"head_dim must be an integer of at least 1, got 2\.5"),
        ({"device": "gpu"}, OptionError, "device must name a torch device, got 'gpu'"),
        ({"device": "meta"}, OptionError, "'exact' keeps its tensors on cpu, cuda, got .* 'meta'"),
        ({"dtype": torch.float64}, DtypeError, r"float32, bfloat16, float16, got torch\.float64"),
        ({"dtype": "float16"}, DtypeError, "float32, bfloat16, float16, got 'float16'"),
    ],
)
def test_bad_arguments_are_named(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        create("exact", **arguments)


def test_lists_of_what_is_available_are_the_callers_own() -> None:
    assert {"exact", "ivf-store", "disk-store", "absent"} <= set(fotmem.available_stores())
    fotmem.available_stores().clear()
    fotmem.available_adapters().clear()
    assert "exact" in fotmem.available_stores()
    assert "llama" in fotmem.available_adapters()


def modules_called(work: Callable[[], object]) -> set[str]:
    called = set()

    def note(frame: FrameType, event: str, argument: object) -> None:
        called.add(frame.f_globals.get("__name__", ""))

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return called


@pytest.mark.parametrize("name", ["exact", "ivf-store"])
def test_nothing_of_the_registry_runs_after_creating(name: str) -> None:
    store, rows, queries = create(name), draw(2, 9, 8), draw(2, 3, 8)

    def use() -> None:
        store.add(rows, rows)
        hits = store.search(queries, 4)
        store.keys(hits.ids), store.values(hits.ids)
        store.attend(queries, top_k=4, scale=1.0)
        store.attend(queries, top_k=None, scale=1.0)
        store.forget(2)
        store.copy().close()

    assert "fotmem.plugin.create" in modules_called(lambda: create(name))
    called = modules_called(use)
    assert "fotmem.stores.store" in called
    machinery = ("fotmem.plugin", "pluggy", "pydantic")
    assert not [module for module in called if module.startswith(machinery)]
