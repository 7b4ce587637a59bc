import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fotmem.plugin.registry import Registry
from tests.plugins import hook, install

BROKEN = {
    "raises": (
        "raise RuntimeError('boom,\\n twice')",
        "cannot be loaded: RuntimeError: boom, twice",
    ),
    "exits": ("raise SystemExit(3)", "cannot be loaded: SystemExit: 3"),
    "syntax": ("def wrong(:", "cannot be loaded: SyntaxError: "),
    "imports": ("import not_there", "cannot be loaded: ModuleNotFoundError: No module named"),
    "hookless": (
        "def fotmem_stores(): return [spec('x')]",
        "mark fotmem_stores or fotmem_adapters",
    ),
    "misspelt": (
        hook("[]", "fotmem_store"),
        "'fotmem_store'; did you mean 'fotmem_stores'?",
    ),
    "arguments": ("@hookimpl\ndef fotmem_stores(config): pass", "Argument(s) {'config'}"),
    "hook_raises": (hook("[1 / 0]"), "fotmem_stores() failed: ZeroDivisionError: "),
    "hook_exits": (hook("exit(4)"), "fotmem_stores() failed: SystemExit: 4"),
    "none": (hook("None"), "fotmem_stores() returned None, must return or yield StoreSpec"),
    "number": (hook("5"), "fotmem_stores() failed: TypeError: 'int' object is not iterable"),
    "words": (hook("['exact']"), "fotmem_stores(): must return or yield StoreSpec, got str"),
    "dictionary": (hook("{'s': spec('s')}"), "must return or yield StoreSpec, got str"),
    "one_spec": (hook("spec('s')"), "TypeError: 'StoreSpec' object is not iterable"),
    "wrong_kind": (
        hook("[spec('s')]", "fotmem_adapters"),
        "fotmem_adapters(): must return or yield AdapterSpec, got StoreSpec",
    ),
    "newer": (
        hook("[spec('newer-store', interface_version=2)]"),
        "'newer-store' asks for plugin interface 2, this fotmem has 1: upgrade fotmem",
    ),
    "version": (hook("[spec('s', interface_version='1')]"), "interface_version of 's' must be an"),
    "takes_exact": (hook("[spec('exact')]"), "'exact' is already taken by plugin 'fotmem_exact'"),
    "thief": (hook("[spec('good-store')]"), "'good-store' is already taken by plugin 'good'"),
    "twice": (hook("[spec('twin'), spec('twin')]"), "'twin' is already taken by plugin 'twice'"),
    "name": (hook("[spec('My store')]"), "lower-case words joined by '-', got 'My store'"),
    "name_type": (hook("[spec(7)]"), "lower-case words joined by '-', got 7"),
    "factory": (
        hook("[spec('s', factory=3)]"),
        "factory of 's' must be a string such as 'my_package.store:MyStore', or callable, got 3",
    ),
    "factory_text": (hook("[spec('s', factory='a.b.C')]"), "or callable, got 'a.b.C'"),
    "options": (hook("[spec('s', options={'a': 1})]"), "options of 's' must be a pydantic model"),
    "requires": (hook("[spec('s', requires='faiss')]"), "requires of 's' must be a tuple of str"),
    "requires_list": (hook("[spec('s', requires=['faiss'])]"), "tuple of str, got ['faiss']"),
    "abilities": (
        hook("[spec('s', capabilities={'exact': True})]"),
        "capabilities of 's' must be StoreCapabilities, got {'exact': True}",
    ),
    "devices": (
        hook("[spec('s', capabilities=StoreCapabilities(exact=True, devices='cpu'))]"),
        "devices of StoreCapabilities must be a tuple of str, got 'cpu'",
    ),
    "field": (hook("[spec('s', colour='red')]"), "unexpected keyword argument 'colour'"),
    "models": (
        hook("[AdapterSpec(name='a', architectures='Llama', factory=dict)]", "fotmem_adapters"),
        "architectures of 'a' must be a tuple of str, got 'Llama'",
    ),
    "takes_llama": (
        hook("[AdapterSpec(name='llama', architectures=('X',), factory=dict)]", "fotmem_adapters"),
        "'llama' is already taken by plugin 'fotmem_decoders'",
    ),
}


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every broken plugin at once, and two good ones."""
    folder = tmp_path_factory.mktemp("crowd")
    for name, (code, _) in BROKEN.items():
        install(folder, name, code)
    install(folder, "good", hook("[spec('good-store'), spec('second-store')]"))
    install(folder, "partly", hook("[spec('before'), None, spec('after')]"))
    missing = "[spec('absent', requires=('not_there', 'torch', 'nor_this.sub'), install='{}')]"
    install(folder, "poor", hook(missing.format("pip install cure")))
    install(folder, "poorer", hook(missing.replace("absent", "cureless").format("")))
    install(folder, "nothing", entry_points="nothing = nothing.plugin:not_there")
    install(folder, "gone", entry_points="gone = no_such_package.plugin")
    install(folder, "double", hook("[spec('double-one')]"))
    again = "double = double_again.plugin"
    install(folder, "double_again", hook("[spec('double-two')]"), entry_points=again)
    impostor = "fotmem_exact = an_impostor.plugin"
    install(folder, "an_impostor", hook("[spec('impostor')]"), entry_points=impostor)
    return folder


@pytest.fixture(scope="module")
def found(crowd: Path) -> Iterator[Registry]:
    before = set(sys.modules)
    sys.path.insert(0, str(crowd))
    try:
        yield Registry()
    finally:
        sys.path.remove(str(crowd))
        for name in set(sys.modules) - before:
            if str(crowd) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]


def reasons(found: Registry, plugin: str) -> list[str]:
    return [problem.reason for problem in found.problems if problem.plugin == plugin]


def test_a_missing_store_is_explained_by_the_problem_of_its_plugin(found: Registry) -> None:
    assert found.why_missing("hook-raises").startswith("plugin 'hook_raises': fotmem_stores() fail")
    assert "plugin 'syntax': cannot be loaded: SyntaxError" in found.why_missing("qqq")
    assert found.why_missing("exakt") == ""
    assert found.why_missing("good/") == "give the store's name, not a folder"
    found.problems, problems = [], found.problems
    assert found.why_missing("qqq") == "if you wrote it, run pip install -e . in its folder"
    found.problems = problems


@pytest.mark.parametrize("plugin", BROKEN)
def test_a_broken_plugin_is_reported_by_name_once(found: Registry, plugin: str) -> None:
    [reason] = reasons(found, plugin)
    assert BROKEN[plugin][1] in reason
    assert "\n" not in reason
    offered = [spec.name for spec, owner in found.owners.items() if owner == plugin]
    assert offered == (["twin"] if plugin == "twice" else [])


def test_other_plugins_work_beside_broken_ones(found: Registry) -> None:
    alone = {"exact", "good-store", "second-store"}
    assert alone <= set(found.stores)
    assert "llama" in found.adapters
    assert "a" not in found.adapters
    owners = {spec.name: owner for spec, owner in found.owners.items()}
    assert owners["exact"] == "fotmem_exact"
    assert owners["good-store"] == owners["second-store"] == "good"
    working = {"good", "fotmem_decoders", "poor", "poorer"}
    assert not working & {problem.plugin for problem in found.problems}


def test_the_good_specs_of_a_partly_broken_plugin_are_kept(found: Registry) -> None:
    assert {"before", "after"} <= set(found.stores)
    assert reasons(found, "partly") == [
        "fotmem_stores(): must return or yield StoreSpec, got NoneType"
    ]


@pytest.mark.parametrize("plugin, error", [("nothing", "AttributeError"), ("gone", "ModuleNotFou")])
def test_an_entry_point_without_a_target_is_reported(
    found: Registry, plugin: str, error: str
) -> None:
    [reason] = reasons(found, plugin)
    assert reason.startswith(f"cannot be loaded: {error}")


@pytest.mark.parametrize(
    "name, kept, lost, left_out",
    [
        ("double", "double-one", "double-two", "double_again.plugin"),
        ("fotmem_exact", "exact", "impostor", "an_impostor.plugin"),  # never fotmem's own
    ],
)
def test_of_two_plugins_of_one_name_the_second_is_left_out(
    found: Registry, name: str, kept: str, lost: str, left_out: str
) -> None:
    assert kept in found.stores
    assert lost not in found.stores
    assert reasons(found, name) == [f"{left_out} is left out: the name is already taken"]


def test_a_missing_package_is_no_problem_but_a_reason(found: Registry) -> None:
    absent, cureless = found.stores["absent"], found.stores["cureless"]
    assert not absent.available
    assert absent.reason == "needs not_there, nor_this.sub, not installed: pip install cure"
    assert cureless.reason.endswith("not installed: pip install not_there nor_this.sub")


def test_a_new_process_sees_the_same(crowd: Path, found: Registry) -> None:
    code = (
        "import json, fotmem; from fotmem.plugin.registry import registry;"
        "fotmem.create_store('good-store', num_heads=1, head_dim=4);"
        "print(json.dumps([list(fotmem.available_stores()), registry().problems]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(crowd)}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    stores, problems = json.loads(result.stdout)
    assert set(stores) == set(found.stores)
    assert {plugin for plugin, _ in problems} == {problem.plugin for problem in found.problems}
