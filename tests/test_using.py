"""Several memories of one model: chosen per call, laid over one another, and one per batch row."""

import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fotmem
from fotmem import Memory
from fotmem.errors import AttachError, OptionError
from fotmem.memory import attend_memories
from tests import tiny
from tests.test_threads import together
from tests.tiny import LAYERS, WINDOW, generate, one_thread  # noqa: F401 - a fixture

TEXTS = [tiny.ids(40), tiny.ids(33, seed=1), tiny.ids(21, seed=2)]
QUESTIONS = tiny.rows(9, 50, 20, seed=7)  # the second overflows
OPTIONS: list[dict[str, Any]] = [
    {"top_k": 5},
    {"top_k": 100},
    {"top_k": None},
    {"top_k": 5, "temperature": 0.5},
]


def attached(model: Any, **options: Any) -> Memory:
    return fotmem.attach(model, layers=LAYERS, window=WINDOW, **options)


def three(model: Any, **options: Any) -> list[Memory]:
    """Attach three memories of one model, each with a text of its own."""
    memories = [attached(model, **options)]
    memories += [fotmem.attach(model, default=False, **options) for _ in TEXTS[1:]]
    for memory, text in zip(memories, TEXTS, strict=True):
        memory.read(text)
    return memories


def alone(texts: list[Tensor], question: Tensor, **options: Any) -> Tensor:
    """Answer from the only memory of a model, which has read these texts."""
    model = tiny.llama()
    with attached(model, **options) as memory:
        for text in texts:
            memory.read(text)
        logits: Tensor = model(question).logits
    return logits


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.fixture
def model() -> Any:
    return tiny.llama()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_call_looks_at_the_memory_that_is_chosen(model: Any, options: dict[str, Any]) -> None:
    memories = three(model, **options)
    for question in QUESTIONS:
        expected = [alone([text], question, **options) for text in TEXTS]
        for memory, logits in zip(memories, expected, strict=True):
            with fotmem.using(memory):
                assert_close(model(question).logits, logits)
        with fotmem.using(None):
            assert_close(model(question).logits, alone([], question, **options))
        assert_close(model(question).logits, expected[0])  # the default


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("order", [(0, 1), (2, 0, 1)])
def test_memories_over_one_another_equal_one_that_holds_all(
    model: Any, order: tuple[int, ...], options: dict[str, Any]
) -> None:
    memories = three(model, **options)
    for question in QUESTIONS:
        with fotmem.using([memories[i] for i in order]):
            got = model(question).logits
        assert_close(got, alone([TEXTS[i] for i in order], question, **options))


@pytest.mark.parametrize("store", ["zarr", "faiss-flat"])
def test_memories_over_one_another_may_have_several_stores(model: Any, store: str) -> None:
    if not fotmem.available_stores()[store].available:
        pytest.skip(fotmem.available_stores()[store].reason)
    first, second, _ = three(model, top_k=6)
    second.use(store)
    empty = fotmem.attach(model, default=False, top_k=6)
    with fotmem.using([empty, first, second]):
        assert_close(model(QUESTIONS[0]).logits, alone(TEXTS[:2], QUESTIONS[0], top_k=6))


def test_top_k_of_the_first_counts_and_temperatures_are_each_memorys_own(model: Any) -> None:
    first, second, _ = three(model, top_k=None)
    first.temperature = second.temperature = 0.7
    second.top_k = 1
    expected = alone(TEXTS[:2], QUESTIONS[1], top_k=None, temperature=0.7)
    with fotmem.using([first, second]):
        assert_close(model(QUESTIONS[1]).logits, expected)
        second.temperature = 3.0
        assert tiny.difference(model(QUESTIONS[1]).logits, expected) > 1e-3


def test_a_chosen_memory_is_looked_at_as_it_says(model: Any) -> None:
    """Its options count for the overflow, too: as if it were the only one."""
    first, second, _ = three(model, top_k=5)
    options: dict[str, Any] = {"top_k": 2, "temperature": 0.5, "decay": 1.0}
    for name, value in options.items():
        setattr(second, name, value)
    expected = alone(TEXTS[1:2], QUESTIONS[1], **options)
    with fotmem.using(second):
        assert_close(model(QUESTIONS[1]).logits, expected)
    with fotmem.using(rows=[first, second]):
        assert_close(model(QUESTIONS[1].repeat(2, 1)).logits[1:], expected)


ROWS: list[list[Any]] = [
    [0, 1, 2],
    [None, 1, 1],
    [[0, 1], None, [1, 0]],
    [[0, 1], [0, 2], 0],
    [None, None, None],
]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("rows", ROWS, ids=str)
@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[2]], ids=str)
def test_each_row_equals_the_row_alone(
    model: Any, options: dict[str, Any], rows: list[Any], side: str
) -> None:
    memories = three(model, **options)
    memories[1].temperature = 0.6
    chosen = [_memories(memories, entry) for entry in rows]
    ids, mask = tiny.padded(QUESTIONS, side)
    with fotmem.using(rows=chosen):
        logits = model(ids, attention_mask=mask).logits
    for row, (question, entry) in enumerate(zip(QUESTIONS, chosen, strict=True)):
        with fotmem.using(entry):
            expected = model(question).logits[0]
        assert_close(logits[row, mask[row].bool()], expected)


def test_a_memory_that_rows_share_is_searched_once(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever lies over it in each row, and however many queries are searched at a time."""
    shared, mine, yours = three(model, top_k=5)
    rows = [[shared, mine], [yours, shared], [shared, mine]]
    for most in (10**6, 3):
        monkeypatch.setattr(attend_memories, "block_length", lambda *sizes, most=most: most)
        before = [memory.stats().searches for memory in (shared, mine, yours)]
        with fotmem.using(rows=rows):
            logits = model(QUESTIONS[0].repeat(3, 1)).logits
        if most > 3:
            searches = [memory.stats().searches for memory in (shared, mine, yours)]
            assert [n - m for n, m in zip(searches, before, strict=True)] == [len(LAYERS)] * 3
        for chosen, found in zip(rows, logits, strict=True):
            with fotmem.using(chosen):
                assert_close(found, model(QUESTIONS[0]).logits[0])


def _memories(memories: list[Memory], entry: Any) -> Any:
    if isinstance(entry, list):
        return [memories[i] for i in entry]
    return None if entry is None else memories[entry]


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=str)
def test_rows_generate_what_each_generates_alone(model: Any, options: dict[str, Any]) -> None:
    first, second, _ = three(model, top_k=5)
    ids, mask = tiny.padded(tiny.rows(14, 9, 12, seed=3))
    choice = [second, None, [first, second]]
    with fotmem.using(rows=choice):
        together = generate(model, ids, 20, attention_mask=mask, **options)
    answers = []
    for row, entry in enumerate(choice):
        with fotmem.using(entry):
            answers.append(
                generate(model, ids[[row]], 20, attention_mask=mask[[row]], **options)[0]
            )
    assert [row.tolist() for row in together] == [row.tolist() for row in answers]
    assert len({tuple(row[-20:].tolist()) for row in together}) == 3


def test_a_conversation_goes_on_with_another_memory(model: Any) -> None:
    first, second, _ = three(model, top_k=5)
    with fotmem.using(second):
        whole = model(tiny.ids(12, seed=4)).logits
        out = model(tiny.ids(12, seed=4)[:, :7])
    with fotmem.using(first):
        model(tiny.ids(12, seed=4)[:, 7:], **tiny.cached(out[1]))
    with fotmem.using(second):
        again = model(tiny.ids(12, seed=4)[:, :7])
        rest = model(tiny.ids(12, seed=4)[:, 7:], **tiny.cached(again[1]))
    assert_close(rest.logits, whole[:, 7:])


def test_blocks_are_nested_and_belong_to_their_model(model: Any) -> None:
    first, second, third = three(model)
    other = tiny.llama(seed=1)
    of_other = attached(other)
    of_other.read(TEXTS[0])
    question = QUESTIONS[0]
    expected = []
    for memory in (first, second, third):
        with fotmem.using(memory):
            expected.append(model(question).logits)
    by_other = other(question).logits
    with fotmem.using(second):
        with fotmem.using(of_other):
            assert torch.equal(model(question).logits, expected[1])
            assert torch.equal(other(question).logits, by_other)
            with fotmem.using(rows=[third]):
                assert torch.equal(model(question).logits, expected[2])
            with pytest.raises(ZeroDivisionError), fotmem.using(third):
                raise ZeroDivisionError
            with fotmem.using(None):
                assert not torch.equal(model(question).logits, expected[1])
                assert not torch.equal(other(question).logits, by_other)
        assert torch.equal(model(question).logits, expected[1])
        assert torch.equal(other(question).logits, by_other)
    assert torch.equal(model(question).logits, expected[0])


def test_threads_choose_for_themselves(model: Any) -> None:
    memories = three(model, top_k=5)
    choices: list[Any] = [*memories, None, memories[:2], memories[1:]]

    def ask(choice: Any) -> Any:
        with fotmem.using(choice):
            return [model(QUESTIONS[1]).logits, generate(model, QUESTIONS[0], 10)]

    expected = [ask(choice) for choice in choices]
    for _ in range(3):
        found = together([lambda choice=choice: ask(choice) for choice in choices])
        for mine, theirs in zip(found, expected, strict=True):
            assert_close(mine[0], theirs[0])
            assert torch.equal(mine[1], theirs[1])
    with fotmem.using(memories[1]), ThreadPoolExecutor(1) as pool:  # not inherited, unless copied
        default = pool.submit(lambda: model(QUESTIONS[1]).logits).result()
        copied = contextvars.copy_context()
        chosen = pool.submit(copied.run, lambda: model(QUESTIONS[1]).logits).result()
    assert_close(default, expected[0][0])
    assert_close(chosen, expected[1][0])


def test_tasks_choose_for_themselves(model: Any) -> None:
    memories = three(model, top_k=5)
    choices: list[Any] = [*memories, None, memories[:2]]

    async def ask(choice: Any, in_thread: bool) -> Tensor:
        with fotmem.using(choice):
            await asyncio.sleep(0)
            if in_thread:
                answer: Tensor = (await asyncio.to_thread(model, QUESTIONS[1])).logits
            else:
                answer = model(QUESTIONS[1]).logits
            await asyncio.sleep(0)
        return answer

    async def all_at_once() -> list[Tensor]:
        asked = [ask(choice, in_thread) for choice in choices for in_thread in (False, True)]
        return list(await asyncio.gather(*asked))

    found = asyncio.run(all_at_once())
    for choice, mine, other in zip(choices, found[::2], found[1::2], strict=True):
        with fotmem.using(choice):
            expected = model(QUESTIONS[1]).logits
        assert_close(mine, expected)
        assert_close(other, expected)


def test_another_memory_reads_by_itself(model: Any) -> None:
    first = attached(model, top_k=5)
    second = fotmem.attach(model, default=False, top_k=3)
    assert (second.options.window, second.layers) == (WINDOW, LAYERS)
    with fotmem.using(first):  # what is read goes where it is read
        second.read(TEXTS[1], attend=True, overlap=3)
    assert (len(first), len(second)) == (0, 33)
    other = tiny.llama()
    with attached(other, top_k=3) as expected:
        expected.read(TEXTS[1], attend=True, overlap=3)
        for layer in LAYERS:
            for mine, theirs in zip(
                tiny.contents(second.store(layer)),
                tiny.contents(expected.store(layer)),
                strict=True,
            ):
                assert torch.equal(mine, theirs)


def test_detaching(model: Any) -> None:
    first, second, third = three(model)
    forward = model.model.forward
    second.detach()
    assert (first.attached, second.attached, third.attached) == (True, False, True)
    with pytest.raises(AttachError, match="memory is detached; attach it again"):
        fotmem.using(second).__enter__()
    with fotmem.using(third):
        third.detach()
        with pytest.raises(AttachError, match=r"detached inside fotmem\.using"):
            model(QUESTIONS[0])
    assert fotmem.attach(model, memory=second) is second
    with fotmem.using(second):
        assert_close(model(QUESTIONS[0]).logits, alone(TEXTS[1:2], QUESTIONS[0]))
    assert model.model.forward == forward
    first.detach()  # the default one: all
    assert not second.attached
    assert "forward" not in vars(model.model)
    fotmem.attach(model, memory=second)  # now the default
    assert_close(model(QUESTIONS[0]).logits, alone(TEXTS[1:2], QUESTIONS[0]))
    fotmem.attach(model, memory=first)
    with fotmem.using(first):
        assert_close(model(QUESTIONS[0]).logits, alone(TEXTS[:1], QUESTIONS[0]))


def test_a_saved_memory_is_another_one(model: Any, tmp_path: Path) -> None:
    with attached(model, top_k=5) as saved:
        saved.read(TEXTS[1])
        saved.save(tmp_path / "memory")
        saved.close()
    first = attached(model, top_k=5)
    first.read(TEXTS[0])
    expected = alone(TEXTS[:2], QUESTIONS[1], top_k=5)
    before = model(QUESTIONS[1]).logits
    opened = [fotmem.open_memory(tmp_path / "memory", model) for _ in range(2)]
    assert torch.equal(model(QUESTIONS[1]).logits, before)
    for memory in opened:
        with fotmem.using([first, memory]):
            assert_close(model(QUESTIONS[1]).logits, expected)
    opened[0].close()
    assert (first.attached, opened[1].attached) == (True, True)


def test_distance_is_that_of_the_model(model: Any) -> None:
    first, second, _ = three(model)
    first.distance = 20
    assert second.distance == second.options.distance == 20
    with pytest.raises(OptionError, match="distance is that of the model"):
        second.distance = 5
    with fotmem.using(second):
        assert_close(model(QUESTIONS[0]).logits, alone(TEXTS[1:2], QUESTIONS[0], distance=20))


def test_what_does_not_fit_is_refused(model: Any, tmp_path: Path) -> None:
    with pytest.raises(AttachError, match="has no memory yet; its first one is the default"):
        fotmem.attach(model, default=False)
    first = attached(model)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"window": 8}, "the same window: 16 of its default memory, not 8; pass window=16"),
        ({"distance": 3}, "the same distance: 0"),
        ({"last_context_length": 2}, "the same last_context_length: 8"),
        ({"layers": [1]}, r"the same layers: \[1, 3\] of its default memory, not \[1\]"),
    ]
    for options, message in refused:
        with pytest.raises(AttachError, match=message):
            fotmem.attach(model, default=False, **options)
    other = tiny.llama(seed=1)
    of_other = fotmem.attach(other, layers=LAYERS, window=8)
    of_other.save(tmp_path / "memory")
    with pytest.raises(AttachError, match="the same window: 16"):
        fotmem.open_memory(tmp_path / "memory", model)
    with pytest.raises(fotmem.errors.StorageError, match="filled by another model"):
        fotmem.open_memory(tmp_path / "memory", model, window=WINDOW, last_context_length=8)
    for chosen, rows, message in [
        ([first, of_other], None, "of several models"),
        (first, [first], "not both"),
        (None, [], "rows must be a list with an entry for each row"),
        (None, "ab", "rows must be a list"),
        (None, [5], r"rows\[0\] must be a Memory, a list of them, or None, got 5"),
        ("x", None, "memory must be a Memory"),
        ([first, first], None, "the same memory twice"),
    ]:
        block = fotmem.using(chosen, rows=rows)  # type: ignore[arg-type]
        with pytest.raises((AttachError, OptionError), match=message):
            block.__enter__()
    with fotmem.using(rows=[first, None]), pytest.raises(OptionError, match="has 2 entries, and"):
        model(QUESTIONS[0])
    assert model(QUESTIONS[0]).logits.isfinite().all()


def test_changing_the_list_changes_nothing(model: Any) -> None:
    first, second, _ = three(model)
    rows: list[Any] = [second]
    with fotmem.using(rows=rows):
        expected = model(QUESTIONS[0]).logits
        rows[0] = first
        assert torch.equal(model(QUESTIONS[0]).logits, expected)
