"""Recent tokens: the last remembered ones keep their positions directly before the window."""

from typing import Any

import pytest
import torch

import fotmem
from fotmem.crossbatch import Crossbatch
from fotmem.errors import AttachError, OptionError
from tests import tiny
from tests.oracle import Oracle
from tests.test_crossbatch_model import remembered, windows
from tests.test_explain import assert_shares, true_shares
from tests.tiny import LAYERS, WINDOW, difference, one_thread  # noqa: F401 - a fixture

OPTIONS: dict[str, Any] = {"distance": 48, "decay": 2.0, "temperature": 0.5}


def pair(
    recent: int, top_k: int | None = 4, variant: str = "gqa", **options: Any
) -> tuple[Any, fotmem.Memory, Oracle]:
    """A model with a memory, and its oracle."""
    model, how = tiny.llama(variant), {**OPTIONS, **options, "top_k": top_k, "recent": recent}
    oracle = Oracle(model, LAYERS, window=WINDOW, **how)
    return model, fotmem.attach(model, layers=LAYERS, window=WINDOW, **how), oracle


@pytest.mark.parametrize("variant", ["gqa", "one_head", "yarn", "llama3"])
@pytest.mark.parametrize("recent", [1, 9, WINDOW, 30, 48])
@pytest.mark.parametrize("top_k", [None, 4])
def test_recent_tokens_equal_the_oracle(variant: str, recent: int, top_k: int | None) -> None:
    model, memory, oracle = pair(recent, top_k, variant)
    question = tiny.ids(9, seed=1)
    for length in (0, 5, 40):  # fewer than the recent ones, and more
        for reader in (memory, oracle):
            reader.read(tiny.ids(length, seed=length), attend=True)
        oracle.new_sequence()
        assert difference(model(question).logits[0], oracle.forward(question)) <= 1e-4


def test_they_matter() -> None:
    text, question = tiny.ids(40), tiny.ids(9, seed=1)
    answers = []
    for recent in (0, 5, 20):
        model, memory, _ = pair(recent)
        memory.read(text)
        answers.append(model(question).logits)
    assert difference(answers[0], answers[1]) > 1e-2
    assert difference(answers[1], answers[2]) > 1e-2


@pytest.mark.parametrize("recent", [5, 20, 40])
@pytest.mark.parametrize("top_k", [None, 4])
def test_overflow_stands_between_memory_and_the_window(recent: int, top_k: int | None) -> None:
    model, memory, oracle = pair(recent, top_k)
    for reader in (memory, oracle):
        reader.read(tiny.ids(40))
    cache = None
    for token in [tiny.ids(3, seed=1), *tiny.ids(40, seed=2).split(1, 1), tiny.ids(50, seed=3)]:
        out = model(token, **tiny.cached(cache))
        cache = out.past_key_values
        assert difference(out.logits[0], oracle.forward(token)) <= 1e-4


@pytest.mark.parametrize("recent", [0, 5, 30])
def test_a_window_looks_up_what_is_before_its_overlap(recent: int) -> None:
    begun, more, overlap = tiny.ids(36)[0], tiny.ids(10, seed=1)[0], 4
    kept = []
    for before, text, shared in (
        (begun, more, overlap),
        (begun[:-overlap], torch.cat([begun[-overlap:], more]), 0),
    ):
        _, memory, _ = pair(recent)
        memory.read(before)
        memory.read(text, overlap=shared, attend=True)
        kept.append(tiny.contents(memory.store(LAYERS[-1]))[0][:, -len(more) :])
    assert difference(*kept) <= 1e-5


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_of_a_batch_have_their_own(side: str) -> None:
    model, memory, oracle = pair(20)
    for reader in (memory, oracle):
        reader.read(tiny.ids(40))
    texts = tiny.rows(5, 40, 9, 23)
    ids, mask = tiny.padded(texts, side)
    logits = model(ids, attention_mask=mask).logits
    for row, (text, kept) in enumerate(zip(texts, mask.bool(), strict=True)):
        oracle.new_sequence()
        assert difference(logits[row, kept], oracle.forward(text)) <= 1e-4


@pytest.mark.parametrize("recent", [7, 45])
@pytest.mark.parametrize("top_k", [None, 6])
def test_explained_shares_are_those_of_the_softmax(recent: int, top_k: int | None) -> None:
    model, memory, oracle = pair(recent, top_k, distance=0)
    for reader in (memory, oracle):
        reader.read(tiny.ids(40))
    for length in (9, 40):
        question = tiny.ids(length, seed=1)
        model(question)
        oracle.new_sequence()
        oracle.forward(question)
        explained = memory.explain(top=1000)
        assert len(explained) == len(true_shares(oracle))
        assert_shares(explained[:10], oracle)


@pytest.mark.parametrize("top_k", [None, 4])
def test_recent_tokens_are_the_last_that_may_be_found(top_k: int | None) -> None:
    model, memory, oracle = pair(20, top_k)
    memory.read(tiny.ids(12), document="a")
    memory.read(tiny.ids(10, seed=1), document="b")
    memory.read(tiny.ids(18, seed=2), document="c")
    memory.read(tiny.ids(30, seed=3), document="d")
    question = tiny.ids(9, seed=4)
    for part in (tiny.ids(12), tiny.ids(18, seed=2)):  # each document begins with a window
        oracle.read(part)
    expected = oracle.forward(question)
    with memory.only(["a", "c"]):
        assert difference(model(question).logits[0], expected) <= 1e-4
    memory.remove("b")
    memory.remove("d")
    assert difference(model(question).logits[0], expected) <= 1e-4


def test_passages_are_ranked_without_recent_tokens() -> None:
    found = []
    for recent in (0, 30):
        _, memory, _ = pair(recent, temperature=0.1)
        memory.read(tiny.ids(40))
        found.append(memory.retrieve(tiny.ids(9, seed=1), passages=3, tokens=8))
    assert found[0] == found[1]
    assert sum(each.weight for each in found[1]) <= 1
    assert memory.recent == 30


def test_each_of_several_memories_has_its_own() -> None:
    model, memory, _ = pair(5, top_k=None, decay=0.0)
    other = fotmem.attach(model, default=False, top_k=None)
    assert other.recent == 5
    memory.read(tiny.ids(20))
    other.read(tiny.ids(20, seed=1))
    question = tiny.ids(9, seed=2)
    with fotmem.using([memory, other]):
        together = model(question).logits
    with fotmem.using([other, memory]):
        assert difference(model(question).logits, together) <= 1e-5
    with fotmem.using(rows=[memory, other]):
        rows = model(question.repeat(2, 1)).logits
    for row, one in enumerate((memory, other)):
        with fotmem.using(one):
            assert difference(rows[row], model(question).logits[0]) <= 1e-5
    memory.recent = 0
    assert other.recent == 0
    with fotmem.using([memory, other]):
        assert difference(model(question).logits, together) > 1e-3
    with pytest.raises(OptionError, match="recent is that of the model"):
        other.recent = 5
    with pytest.raises(AttachError, match="the same recent: 0"):
        fotmem.attach(model, default=False, recent=5)


@pytest.mark.parametrize("store", ["exact", "clusters", "faiss-ivf", "zarr"])
def test_stores_answer_alike(store: str) -> None:
    question = tiny.ids(9, seed=1)
    answers = []
    for name in ("exact", store):
        model = tiny.llama()
        how: dict[str, Any] = {"top_k": 8, "recent": 20, **OPTIONS}
        with fotmem.attach(model, name, LAYERS, window=WINDOW, **how) as memory:
            memory.read(tiny.ids(300))
            answers.append(model(question).logits)
    assert difference(*answers) <= 1e-3


@pytest.mark.parametrize("d", [0, 1, 2, 3])
@pytest.mark.parametrize("ages", [[1, 1, 1], [1, 5, 1], [2, 2, 2]])
def test_training_sees_the_window_before_as_recent(d: int, ages: list[int]) -> None:
    model = tiny.llama()
    documents = windows(3, 3)
    with Crossbatch(model, LAYERS, distance=7, recent=True) as crossbatch:
        crossbatch.windows_per_document, crossbatch.d = [3] * 3, d
        crossbatch.ages = torch.tensor(ages)
        logits = model(documents.flatten(0, 1)).logits.unflatten(0, (3, 3))
    for row, document in enumerate(documents):
        following = documents[(row + 1) % 3]
        others = [each for step in range(1, d) for each in documents[(row + step) % 3][:-1]]
        for place in (1, 2):
            before = [*document[:place]] if d else []
            if d and ages[row] == 1:
                context, recent = [*others, *before], WINDOW - 1
            elif d > 1:
                rest = [each for each in others if not torch.equal(each, following[1])]
                context, recent = [*rest, *before, following[1]], WINDOW - 1
            else:
                context, recent = before, 0
            expected = remembered(
                model, context, document[place], distance=7, recent=recent if context else 0
            )
            assert difference(logits[row, place], expected) <= 1e-4


def test_options_are_checked() -> None:
    model = tiny.llama(mem_layers=[1], mem_recent=7)
    with fotmem.attach(model, window=WINDOW) as memory:
        assert memory.recent == 7
    with fotmem.attach(model, window=WINDOW, recent=0) as memory:
        assert memory.recent == 0
    with fotmem.attach(tiny.llama(mem_layers=[1], mem_recent=40), window=60) as memory:
        assert memory.recent == 4  # the model has 64 positions
    with pytest.raises(OptionError, match=r"from 0 to 4, got 5: .* 64 positions"):
        fotmem.attach(model, window=60, recent=5)
    for wrong in (-1, 64, 1.5, True):
        with pytest.raises(OptionError, match="recent must be"):
            fotmem.attach(model, window=WINDOW, recent=wrong)  # type: ignore[arg-type]
    without = tiny.llama(mem_positionals=False, mem_recent=7)
    with fotmem.attach(without, layers=[1]) as memory:
        assert memory.recent == 0  # without positions nothing keeps its own
    with pytest.raises(OptionError, match="recent must be 0, got 7"):
        fotmem.attach(without, layers=[1], recent=7)
