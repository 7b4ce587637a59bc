"""Every broken adapter fails the test of the contract that must catch it."""

import re
from fnmatch import fnmatch
from typing import Any

import pytest

from tests import broken_adapters, families
from tests.broken_adapters import BROKEN
from tests.pages import ROOT

pytest_plugins = ["pytester"]

HEADER = """
import pytest
from fotmem.testing import AdapterContract
from tests import broken_adapters, families
"""
BODY = """
class Test{name}(AdapterContract):
    layers = getattr(broken_adapters.{module}.{name}, "layers", None)

    @pytest.fixture
    def model(self):
        return families.tiny({family!r}, **{config!r})

    @pytest.fixture
    def adapter(self):
        return broken_adapters.{module}.{name}()
"""


def test_every_broken_adapter_fails_its_test(pytester: pytest.Pytester) -> None:
    bodies = [
        BODY.format(
            module=broken.__module__.rpartition(".")[2],
            name=broken.__name__,
            family=family,
            config=config,
        )
        for broken, (_, family, config) in BROKEN.items()
    ]
    file = pytester.makepyfile(HEADER + "".join(bodies)).name
    wanted = {f"{file}::Test{broken.__name__}::{test}" for broken, (test, _, _) in BROKEN.items()}
    _, _, failed = pytester.inline_run(*sorted(wanted)).listoutcomes()
    messages = {}
    for report in failed:
        crash: Any = report.longrepr
        messages[report.nodeid.partition("[")[0]] = str(crash.reprcrash.message)
    assert wanted - set(messages) == set()
    for name, message in messages.items():
        assert message.startswith("AssertionError: "), (name, message)


REFUSED = {
    "RefusesEverything": "this layer cannot be used while a memory is attached; choose another one",
    "SoftCapped": "attention with soft-capped scores in every layer cannot be used *",
}


def test_where_all_layers_are_refused_every_test_says_why(pytester: pytest.Pytester) -> None:
    bodies = []
    for name in REFUSED:
        _, family, config = BROKEN[getattr(broken_adapters.attached, name)]
        families.tiny(family)  # what only the inner pytest imports cannot be imported twice
        bodies.append(BODY.format(module="attached", name=name, family=family, config=config))
    pytester.makepyfile(HEADER + "".join(bodies))
    result = pytester.inline_run("-k", "some_layers or geometry or attaching_twice")
    failed: Any = result.listoutcomes()[2]
    assert len(failed) == 6
    for report in failed:
        [reason] = [reason for name, reason in REFUSED.items() if f"Test{name}" in report.nodeid]
        message = report.longrepr.reprcrash.message
        assert fnmatch(message, f"AssertionError: at least *, the first one because: {reason}")


def test_tests_run_in_the_order_of_the_page(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(HEADER + "class TestNothing(AdapterContract):\n    pass\n")
    items: Any = pytester.inline_genitems()[0]
    page = (ROOT / "docs/adapters.md").read_text("utf-8").partition("| test |")[2]
    shown = [name for row in page.splitlines() for name in re.findall(r"test_\w+", row)]
    assert list(dict.fromkeys(item.originalname for item in items)) == shown


def test_a_model_is_needed(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(HEADER + "class TestNothing(AdapterContract):\n    pass\n")
    result = pytester.runpytest_inprocess("-k", "geometry")
    result.stdout.fnmatch_lines(["*TestNothing needs a fixture `model` that returns a tiny model*"])


@pytest.mark.parametrize(
    "config, message",
    [
        ({"max_position_embeddings": 16}, "max_position_embeddings must be at least 32, got 16"),
        ({"vocab_size": 9}, "vocab_size must be at least 32, got 9"),
    ],
)
def test_models_that_are_too_small_are_named(config: dict[str, int], message: str) -> None:
    from fotmem.testing.adapter.fixtures import prepared

    with pytest.raises(AssertionError, match=message):
        prepared(families.tiny("qwen3", **config))
