"""Which remembered tokens the last position attended to, and how much."""

from types import SimpleNamespace
from typing import Any

import pytest

import fotmem
from fotmem import AttendedToken, Memory
from fotmem.errors import LayerError, OptionError
from tests import tiny
from tests.oracle import Oracle
from tests.tiny import (  # noqa: F401 - `one_thread` is a fixture
    LAYERS,
    WINDOW,
    generate,
    one_thread,
)

TOKENIZER = SimpleNamespace(decode=lambda ids: f"<{ids[0]}>")


def attached(
    top_k: int | None = None, variant: str = "gqa", decay: float = 0.0, temperature: float = 1.0
) -> tuple[Any, Memory, Oracle]:
    model = tiny.llama(variant)
    options: dict[str, Any] = {"top_k": top_k, "decay": decay, "temperature": temperature}
    oracle = Oracle(model, LAYERS, window=WINDOW, **options)
    memory = fotmem.attach(model, layers=LAYERS, window=WINDOW, **options)
    for reader in (memory, oracle):
        reader.read(tiny.ids(40))
    return model, memory, oracle


def true_shares(oracle: Oracle) -> list[tuple[float, int, int]]:
    """The largest share of any head, for each ``(share, layer, position)`` in memory."""
    found: dict[tuple[int, int], float] = {}
    for layer, shares in oracle.shares():
        for position, share in shares.items():
            found[layer, position] = max(share, found.get((layer, position), 0.0))
    return sorted(((share, *place) for place, share in found.items()), reverse=True)


def assert_shares(explained: list[AttendedToken], oracle: Oracle) -> None:
    expected = true_shares(oracle)[: len(explained)]
    for entry, (share, layer, position) in zip(explained, expected, strict=True):
        assert (entry.layer, entry.position) == (layer, position)
        assert abs(entry.weight - share) <= 1e-5


@pytest.mark.parametrize("top_k", [None, 1, 6])
@pytest.mark.parametrize("variant", ["gqa", "one_head", "yarn"])
@pytest.mark.parametrize(
    ("length", "decay", "temperature"), [(9, 0.0, 1.0), (50, 0.0, 1.0), (50, 2.0, 0.5)]
)
def test_weights_are_shares_of_the_softmax(
    length: int, decay: float, temperature: float, variant: str, top_k: int | None
) -> None:
    model, memory, oracle = attached(top_k, variant, decay, temperature)
    question = tiny.ids(length, seed=1)
    model(question)
    oracle.forward(question)
    explained = memory.explain(TOKENIZER)
    assert len(explained) == min(10, len(true_shares(oracle)))
    assert_shares(explained, oracle)
    for entry in explained:
        assert 0 < entry.weight <= 1
        assert entry.token_id == int(tiny.ids(40)[0, entry.position])
        assert entry.token_id == int(memory.tokens[entry.position])
        assert entry.text == f"<{entry.token_id}>"
    assert [entry.text for entry in memory.explain()] == [""] * len(explained)


def test_top_limits_the_number_of_entries() -> None:
    model, memory, oracle = attached(6)
    model(tiny.ids(9, seed=1))
    oracle.forward(tiny.ids(9, seed=1))
    everything = memory.explain(top=1000)
    assert len(everything) == len(true_shares(oracle))
    assert memory.explain(top=3) == everything[:3]
    with pytest.raises(OptionError, match="top must be at least 1, got 0"):
        memory.explain(top=0)


def test_after_generating_it_explains_the_last_token() -> None:
    model, memory, oracle = attached()
    question = tiny.ids(30, seed=1)
    generate(model, question, 9)
    oracle.greedy(question, 9)
    assert_shares(memory.explain(), oracle)


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_row_has_its_own_explanation(side: str) -> None:
    model, memory, _ = attached()
    texts = tiny.rows(5, 50, 16, 1)
    ids, mask = tiny.padded(texts, side)
    mask[3] = 0
    model(ids, attention_mask=mask)
    together = [memory.explain(row=row) for row in range(4)]
    with pytest.raises(LayerError, match="the last call had 4 rows, there is no row 4"):
        memory.explain(row=4)
    for row, text in enumerate(texts[:3]):
        model(text)
        alone = memory.explain()
        assert [entry[:3] for entry in together[row]] == [entry[:3] for entry in alone]
        for mine, theirs in zip(together[row], alone, strict=True):
            assert abs(mine.weight - theirs.weight) <= 1e-5
    assert together[3] == []  # nothing but padding


def test_later_options_do_not_change_the_explanation() -> None:
    model, memory, _ = attached(2)
    model(tiny.ids(9, seed=1))
    expected = memory.explain(top=1000)
    memory.top_k, memory.decay, memory.temperature = 20, 3.0, 0.5
    assert memory.explain(top=1000) == expected
    memory.detach()
    model(tiny.ids(5))
    assert memory.explain(top=1000) == expected


def test_without_anything_to_explain_it_is_empty() -> None:
    model = tiny.llama()
    with fotmem.attach(model, layers=LAYERS, window=WINDOW) as memory:
        assert memory.explain() == []  # nothing was asked
        model(tiny.ids(50))
        assert memory.explain() == []  # nothing was remembered
        memory.read(tiny.ids(20))
        assert memory.explain() == []  # nothing was asked since
        model(tiny.ids(9))
        assert len(memory.explain()) == 10
        memory.read(tiny.ids(20))
        assert memory.explain() == []
