"""Every broken adapter fails the test of the contract that must catch it."""

from typing import Any

import pytest

from tests import families
from tests.broken_adapters import BROKEN

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
