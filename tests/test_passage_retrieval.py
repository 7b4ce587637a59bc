"""Passages that a prompt attends to: found by brute force too, and read again."""

from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor

import fotmem
from fotmem import Memory
from fotmem.errors import AttachError, InputError, OptionError, ShapeError
from fotmem.memory.retrieval import NEAR, RetrievedPassage
from tests import tiny
from tests.oracle import Oracle
from tests.tiny import LAYERS, WINDOW, one_thread  # noqa: F401 - `one_thread` is a fixture

READ = 200


def attached(top_k: int | None = 8, **options: Any) -> tuple[Any, Memory]:
    model = tiny.llama()
    return model, fotmem.attach(model, layers=LAYERS, window=WINDOW, top_k=top_k, **options)


def true_attention(
    oracle: Oracle, prompt: Tensor, asking: int, chosen: dict[str, list[int]] | None = None
) -> list[dict[int, float]]:
    """The shares of remembered tokens, of each of the last tokens of a prompt and each head.

    Those of chosen heads, or of all. A random model has no attention sinks; ``test_smollm2.py`` has
    a real one.
    """
    given = []
    for length in range(prompt.shape[1] - asking + 1, prompt.shape[1] + 1):
        oracle.new_sequence()
        oracle.forward(prompt[:, :length])
        for number, (layer, shares) in enumerate(oracle.shares()):
            if not chosen or number % oracle.num_heads in chosen.get(str(layer), ()):
                given.append(shares)
    return given


def best_by_hand(
    given: list[dict[int, float]], tokens: int, passages: int, length: int
) -> list[RetrievedPassage]:
    """Take passages one after another, each around the token whose neighbourhood scores most.

    What is taken is taken out of the softmax. Those with less than three tenths of the first one's
    score are left out.
    """
    found: list[RetrievedPassage] = []
    points: list[float] = []
    for _ in range(passages):
        taken = {at for each in found for at in range(each.start, each.stop)}
        scores: dict[int, float] = defaultdict(float)
        for shares in given:
            left = 1 - sum(share for at, share in shares.items() if at in taken)
            for at in shares.keys() - taken:
                scores[at] += (shares[at] / max(left, 0.05)) ** 2 / len(given)
        near = {
            at: sum(score for other, score in scores.items() if abs(other - at) <= NEAR)
            for at, own in scores.items()
            if own
        }
        most = [at for at in near if near[at] >= max(near.values()) * (1 - 1e-9)]
        centre = max(most, key=lambda at: scores[at])
        start = max(0, min(centre - tokens // 3, length - tokens))
        inside = list(range(start, start + tokens))
        for each in found:
            inside = [at for at in inside if not each.start <= at < each.stop]
            inside = [at for at in inside if (at < each.start) == (centre < each.start)]
        weight = sum(shares.get(at, 0.0) for shares in given for at in inside) / len(given)
        found.append(RetrievedPassage(inside[0], inside[-1] + 1, weight))
        points.append(sum(scores.get(at, 0.0) for at in inside))
    return [each for each, got in zip(found, points, strict=True) if got >= 0.3 * points[0]]


@pytest.mark.parametrize("asking", [None, 3])
@pytest.mark.parametrize(("tokens", "passages"), [(10, 3), (40, 4), (1, 2)])
@pytest.mark.parametrize("decay", [0.0, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_the_passages_with_most_attention_are_found(
    tokens: int, passages: int, asking: int | None, temperature: float, decay: float
) -> None:
    """Also with a decay: what is asked for may be of any age."""
    model = tiny.llama()
    options: dict[str, Any] = {"window": WINDOW, "top_k": 8, "temperature": temperature}
    oracle = Oracle(model, LAYERS, **options)
    memory = fotmem.attach(model, layers=LAYERS, decay=decay, **options)
    for reader in (memory, oracle):
        reader.read(tiny.ids(READ))
    prompt = tiny.ids(9, seed=1)
    found = memory.retrieve(prompt, passages=passages, tokens=tokens, asking=asking)
    given = true_attention(oracle, prompt, asking or 9)
    expected = best_by_hand(given, tokens, passages, READ)
    for one, other in zip(found, expected, strict=True):
        assert one[:2] == other[:2]
        assert one.weight == pytest.approx(other.weight, abs=1e-5)


@pytest.mark.parametrize("heads", [{"1": [2]}, {"1": [3, 0], "3": [1]}, {"2": [0]}, {"3": []}])
def test_chosen_heads_rank_passages(heads: dict[str, list[int]]) -> None:
    """Heads of layers without memory are none of them, and then all heads rank."""
    model = tiny.llama()
    model.config.mem_retrieval_heads = heads
    oracle = Oracle(model, LAYERS, window=WINDOW, top_k=8)
    memory = fotmem.attach(model, layers=LAYERS, window=WINDOW, top_k=8)
    for reader in (memory, oracle):
        reader.read(tiny.ids(READ))
    prompt = tiny.ids(9, seed=1)
    given = true_attention(oracle, prompt, 4, heads if heads.keys() & {"1"} else None)
    expected = best_by_hand(given, 10, 3, READ)
    for one, other in zip(
        memory.retrieve(prompt, passages=3, tokens=10, asking=4), expected, strict=True
    ):
        assert one[:2] == other[:2]
        assert one.weight == pytest.approx(other.weight, abs=1e-5)


def test_passages_are_apart_and_inside_their_documents() -> None:
    _, memory = attached()
    for name, length in (("a", 30), ("b", 100), ("c", 12)):
        memory.read(tiny.ids(length, seed=length), document=name)
    documents = [range(each.first, each.first + each.tokens) for each in memory.documents]
    for seed in range(20):
        found = memory.retrieve(tiny.ids(7, seed=seed), passages=5, tokens=25)
        assert len(found) == 5
        places = [at for each in found for at in range(each.start, each.stop)]
        assert len(places) == len(set(places))
        for each in found:
            assert 0 < each.stop - each.start <= 25
            assert 0 < each.weight <= 1
            assert any({each.start, each.stop - 1} <= set(document) for document in documents)


def test_only_what_may_be_found_is_retrieved() -> None:
    _, memory = attached()
    memory.read(tiny.ids(60), document="a")
    memory.read(tiny.ids(60, seed=1), document="b")
    memory.read(tiny.ids(60, seed=2), document="c")
    prompt = tiny.ids(9, seed=3)
    with memory.only(["b"]):
        assert all(60 <= each.start < 120 for each in memory.retrieve(prompt, tokens=9))
    memory.remove("a")
    assert all(each.start >= 60 for each in memory.retrieve(prompt, passages=9, tokens=9))


def test_a_memory_that_is_not_the_default_is_retrieved_from() -> None:
    model, first = attached()
    second = fotmem.attach(model, default=False)
    first.read(tiny.ids(40))
    second.read(tiny.ids(90, seed=1))
    prompt = tiny.ids(9, seed=3)
    expected = second.retrieve(prompt, passages=9, tokens=9)
    assert max(each.stop for each in expected) > 40
    with fotmem.using():
        assert second.retrieve(prompt, passages=9, tokens=9) == expected
    with fotmem.using(rows=[first, second]):
        assert second.retrieve(prompt, passages=9, tokens=9) == expected
        assert all(each.stop <= 40 for each in first.retrieve(prompt))


def test_nothing_is_retrieved_from_nothing() -> None:
    _, memory = attached()
    prompt = tiny.ids(9)
    assert memory.retrieve(prompt) == []
    assert memory.reread(prompt).input_ids.tolist() == prompt.tolist()
    memory.read(tiny.ids(40))
    assert memory.retrieve(prompt, passages=0) == []
    assert memory.retrieve([]) == []
    memory.clear()
    memory.read(tiny.ids(40), document="a")
    memory.remove("a")
    assert memory.retrieve(prompt) == []
    assert memory.reread([]).input_ids.shape == (1, 0)


def test_of_a_long_prompt_the_end_counts() -> None:
    _, memory = attached()
    memory.read(tiny.ids(READ))
    prompt = tiny.ids(3 * WINDOW, seed=1)
    expected = memory.retrieve(prompt[:, -WINDOW:], tokens=9)
    assert memory.retrieve(prompt, tokens=9) == expected
    assert memory.retrieve(prompt, tokens=9, asking=2 * WINDOW) == expected
    assert memory.retrieve(prompt, tokens=9, asking=2) != expected


def test_nothing_changes_by_retrieving() -> None:
    model, memory = attached()
    memory.read(tiny.ids(READ))
    prompt = tiny.ids(9, seed=1)
    expected = model(prompt).logits
    first = memory.retrieve(prompt)
    assert memory.retrieve(prompt[0].tolist()) == first
    assert torch.equal(model(prompt).logits, expected)
    assert len(memory) == READ


@pytest.mark.parametrize("passages", [1, 2, 3])
def test_passages_come_before_the_prompt_in_their_order(passages: int) -> None:
    _, memory = attached()
    read = tiny.ids(READ)
    memory.read(read)
    prompt = tiny.ids(5, seed=1)
    given, found = memory.reread(prompt, passages=passages, tokens=3)
    assert found == memory.retrieve(prompt, passages=passages, tokens=3)
    expected = [read[:, each.start : each.stop] for each in sorted(found)]
    assert torch.equal(given, torch.cat([*expected, prompt], 1))
    assert given.shape[1] > prompt.shape[1]


def test_a_prefix_stays_before_the_passages() -> None:
    _, memory = attached()
    memory.read(tiny.ids(READ))
    prompt = tiny.ids(5, seed=1)
    [plain], found = memory.reread(prompt, passages=2, tokens=3)
    for prefix in range(6):
        [given], passages = memory.reread(prompt, passages=2, tokens=3, prefix=prefix)
        assert passages == found
        assert torch.equal(given[:prefix], prompt[0, :prefix])
        assert torch.equal(given[prefix : prefix + len(plain) - 5], plain[:-5])
        assert torch.equal(given[prefix + len(plain) - 5 :], prompt[0, prefix:])


@pytest.mark.parametrize("new", [0, 1, WINDOW - 9, WINDOW])
def test_an_answer_has_room(new: int) -> None:
    _, memory = attached()
    memory.read(tiny.ids(READ))
    prompt = tiny.ids(9, seed=1)
    given, found = memory.reread(prompt, max_new_tokens=new)
    assert bool(found) == (given.shape[1] > 9) == (new < WINDOW - 9)
    assert given.shape[1] + new <= max(WINDOW, 9 + new)


def test_a_window_with_little_room_has_fewer_passages_not_scraps() -> None:
    model = tiny.llama(max_position_embeddings=512)
    memory = fotmem.attach(model, layers=LAYERS, window=300)
    memory.read(tiny.ids(400))
    for passages, length in ((100, 20), (3, 200), (3, 225)):
        prompt = tiny.ids(length, seed=1)
        given, found = memory.reread(prompt, passages=passages)
        assert len(found) == (300 - 37 - length) // 32
        assert given.shape[1] >= length + 32 * len(found) - 16
        assert given.shape[1] <= 300 - 37
    assert memory.reread(tiny.ids(240, seed=1)).passages == []


def test_the_room_of_weak_passages_goes_to_the_others() -> None:
    """They are as long as if so few had been asked for."""
    _, memory = attached(temperature=0.1)
    memory.read(tiny.ids(READ))
    longer = 0
    for seed in range(20):
        prompt = tiny.ids(9, seed=seed)
        room = WINDOW * 7 // 8 - 9
        given, found = memory.reread(prompt, passages=4, tokens=room, asking=1)
        assert given.shape[1] <= 9 + room
        assert found == memory.retrieve(
            prompt, passages=len(found), tokens=room // len(found), asking=1
        )
        longer += len(found) < 4
    assert longer


@pytest.mark.parametrize("length", range(1, WINDOW + 5))
def test_a_prompt_with_passages_leaves_an_eighth_of_the_window(length: int) -> None:
    _, memory = attached()
    memory.read(tiny.ids(READ))
    prompt = tiny.ids(length, seed=1)
    given = memory.reread(prompt).input_ids
    assert torch.equal(given[:, -length:], prompt)
    assert given.shape[1] <= max(length, WINDOW * 7 // 8)
    if length <= WINDOW * 7 // 8 - 3:
        assert given.shape[1] > length


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"passages": -1}, OptionError, "passages must be an integer of at least 0, got -1"),
        ({"passages": 1.5}, OptionError, "passages"),
        ({"tokens": 0}, OptionError, "tokens must be an integer of at least 1, got 0"),
        ({"asking": 0}, OptionError, "asking must be an integer of at least 1, got 0"),
        ({"asking": 10}, OptionError, "asking must be at most 9, got 10"),
    ],
)
@pytest.mark.parametrize("method", ["retrieve", "reread"])
def test_wrong_options_are_refused(
    method: str, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    _, memory = attached()
    memory.read(tiny.ids(READ))
    with pytest.raises(error, match=words):
        getattr(memory, method)(tiny.ids(9), **options)


@pytest.mark.parametrize("method", ["retrieve", "reread"])
def test_wrong_prompts_are_refused(method: str) -> None:
    _, memory = attached()
    with pytest.raises(ShapeError):
        getattr(memory, method)(torch.zeros(2, 5, dtype=torch.long))
    with pytest.raises(InputError, match="from 0 to 96"):
        getattr(memory, method)([97])
    memory.detach()
    with pytest.raises(AttachError, match="attach again"):
        getattr(memory, method)(tiny.ids(5))
