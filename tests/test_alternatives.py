"""What a user would do instead of a memory: what each way lets the model see, and what it keeps."""

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import DynamicCache

import fotmem
from fotmem.errors import InputError, OptionError
from fotmem.measure.evaluate.alternatives import (
    attached_memory,
    attention_sinks,
    kept_keys,
    run,
)
from fotmem.measure.evaluate.alternatives.attached_memory import AttachedMemory
from fotmem.measure.evaluate.alternatives.attention_sinks import SINKS, AttentionSinks
from fotmem.measure.evaluate.alternatives.bm25 import PASSAGE, STRIDE, Passages
from fotmem.measure.evaluate.alternatives.kept_keys import KeptKeys, read_keys
from fotmem.measure.evaluate.alternatives.last_tokens import LastTokens
from fotmem.measure.evaluate.alternatives.local_text import LocalText
from fotmem.measure.evaluate.alternatives.names import MEANINGS, check_names, make_ways
from fotmem.measure.evaluate.alternatives.run import WayRow, ask_all, means_of, way_row
from fotmem.measure.evaluate.alternatives.way import AskedText, Question, WindowWay
from fotmem.measure.evaluate.intervals import wilson
from fotmem.measure.evaluate.text_edits import Edit
from fotmem.measure.reading import LOCAL, remember
from fotmem.models.tokens import token_ids
from fotmem.tasks.answer import answer_question
from tests import folders, tiny
from tests.tiny import one_thread  # noqa: F401 - a fixture

TOKENIZER: Any = folders.tokenizer()
TEXT: list[int] = TOKENIZER(folders.PROSE[:6000], add_special_tokens=False).input_ids


@functools.cache
def model() -> Any:
    return folders.model(max_position_embeddings=256)


def question(prompt: list[int], new_tokens: int = 6) -> Question:
    return Question(prompt, new_tokens, score=lambda said: 0.5)


def said(prompt: list[int], new_tokens: int = 6) -> str:
    """What the model says without a cache from before."""
    return answer_question(model(), TOKENIZER, prompt, max_new_tokens=new_tokens).text


# The last tokens


@pytest.mark.parametrize("length", [20, 100])
def test_the_last_tokens_that_leave_room_for_question_and_answer(length: int) -> None:
    way, text = LastTokens(model(), TOKENIZER, 64), TEXT[:length]
    asked = [question(TEXT[200:205]), question(TEXT[300:311])]
    way.read(text, max(each.room for each in asked))
    for each in (*asked, asked[0]):
        assert way.answer(each) == said([*text[-(64 - 11 - 6) :], *each.prompt])
    assert way.kept_bytes == min(length, 47) * 4 * 2 * 2 * 8 * 4  # layers, k and v, heads, D, bytes


def test_a_window_without_room_for_text(monkeypatch: pytest.MonkeyPatch) -> None:
    for way in make_ways([*MEANINGS], model(), TOKENIZER, 32).values():
        with pytest.raises(InputError, match=r"a window of (32|256) tokens has no room for text"):
            way.read(TEXT[:100], 256)


# Attention sinks


def test_sinks_and_window_stand_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one layer keys depend on nothing before them: the rest is the plain model's."""
    monkeypatch.setattr(kept_keys, "STEP", 5)
    one = folders.model(num_hidden_layers=1, mem_layers=[0], max_position_embeddings=256)
    way = AttentionSinks(one, TOKENIZER, 40)
    asked = question(TEXT[200:207])
    for length in (3, 10, 30, 150):
        text = TEXT[:length]
        way.read(text, asked.room)
        rest = text[SINKS:][-(40 - asked.room - SINKS) :]
        seen = [*text[:SINKS], *rest]
        prompt = [*seen, *asked.prompt]
        expected = answer_question(one, TOKENIZER, prompt, max_new_tokens=6).text
        assert way.answer(asked) == expected == way.answer(asked)
        assert way._kept.ids == seen
        assert way.kept_bytes == len(seen) * 1 * 2 * 2 * 8 * 4


def test_a_window_slides_as_a_mask_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without sinks, all tokens in one call whose mask hides what the window has left behind."""
    monkeypatch.setattr(attention_sinks, "SINKS", 0)
    way, size, step = AttentionSinks(model(), TOKENIZER, 40), 32, 4
    way.read(TEXT[:70], 8)
    places = torch.arange(70)
    left = places // step * step + step - size  # of the last step, which ends the window
    left[68:] = 70 - size
    visible = (places[None] <= places[:, None]) & (places[None] >= left[:, None])
    cache = DynamicCache()
    model()(torch.tensor([TEXT[:70]]), attention_mask=visible[None, None], **tiny.cached(cache))
    assert way._kept.ids == TEXT[70 - size : 70]
    layers: list[Any] = cache.layers
    for mine, layer in zip(way._kept.pairs, layers, strict=True):
        assert tiny.difference(mine[0], layer.keys[:, :, -size:]) < 1e-4
        assert tiny.difference(mine[1], layer.values[:, :, -size:]) < 1e-4


def test_a_window_with_sinks_goes_on_with_what_it_has_read() -> None:
    way, size, step = AttentionSinks(model(), TOKENIZER, 44), 32, 4
    read, start = SINKS + size + step, SINKS + step
    way.read(TEXT[:read], 8)
    whole = read_keys(model(), TEXT[: SINKS + size]).pairs
    left = [(keys[:, :, start:], values[:, :, start:]) for keys, values in whole]
    window = KeptKeys(TEXT[start : SINKS + size], start, left)
    behind = read_keys(model(), TEXT[:SINKS], step).before(window)
    expected = behind.extended(model(), TEXT[SINKS + size : read])
    assert way._kept.ids == expected.ids
    for mine, theirs in zip(way._kept.pairs, expected.pairs, strict=True):
        assert tiny.difference(mine[0], theirs[0]) < 1e-4
        assert tiny.difference(mine[1], theirs[1]) < 1e-4
    anew = read_keys(model(), way._kept.ids)
    assert tiny.difference(anew.pairs[3][1], way._kept.pairs[3][1]) > 1e-3


# BM25


def test_the_best_passages_fill_the_window_in_the_order_of_the_text() -> None:
    """Five passages, two of them about lamps; there is room for three, and for five tokens."""
    pieces = [TEXT[i * PASSAGE : (i + 1) * PASSAGE] for i in range(5)]
    for place, fact in ((1, " A brass lamp."), (3, " The brass lamp of Nora Weber.")):
        told = TOKENIZER(fact, add_special_tokens=False).input_ids
        middle = (PASSAGE - len(told)) // 2
        pieces[place][middle : middle + len(told)] = told
    prompt = TOKENIZER(" Where is the brass lamp of Nora?", add_special_tokens=False).input_ids
    asked = question(prompt)
    way = Passages(model(), TOKENIZER, 3 * PASSAGE + asked.room + 5)
    way.read([token for piece in pieces for token in piece], asked.room)
    found = way.found(asked)
    assert len(found) == 3 * PASSAGE + 5
    starts = [
        next(i for i in range(len(found)) if found[i : i + PASSAGE] == pieces[number])
        for number in (1, 3)
    ]
    assert starts[0] + PASSAGE <= starts[1]
    tight = Passages(model(), TOKENIZER, 2 * PASSAGE + asked.room)
    tight.read([token for piece in pieces for token in piece], asked.room)
    assert tight.found(asked) == pieces[1] + pieces[3]
    assert tight.answer(asked) == said([*pieces[1], *pieces[3], *prompt])
    assert tight.kept_bytes > 8 * 5 * PASSAGE


def test_what_a_passage_cuts_in_two_stands_whole_in_another() -> None:
    fact = TOKENIZER(" The brass lamp of Nora Weber.", add_special_tokens=False).input_ids
    text = TEXT[: 5 * PASSAGE]
    for border in (PASSAGE, PASSAGE + STRIDE, 2 * PASSAGE):
        begin = border - len(fact) // 2
        changed = [*text[:begin], *fact, *text[begin + len(fact) :]]
        way = Passages(model(), TOKENIZER, PASSAGE + 20)
        way.read(changed, 20)
        query = "Where is the brass lamp of Nora?"
        found = way.found(Question([1] * 14, 6, score=float, query=query))
        assert any(found[i : i + len(fact)] == fact for i in range(len(found)))


def test_another_query_than_the_prompt() -> None:
    lamp = TOKENIZER(" A brass lamp.", add_special_tokens=False).input_ids
    way = Passages(model(), TOKENIZER, PASSAGE + 20)
    way.read([*TEXT[:430], *lamp, *TEXT[430:500]], 20)
    assert way.found(Question(TEXT[:14], 6, score=float, query="brass lamp")) != TEXT[:PASSAGE]
    assert way.found(Question(TEXT[:14], 6, score=float)) != way.found(
        Question(TEXT[:14], 6, score=float, query="brass lamp")
    )


def test_scripts_without_spaces_between_words() -> None:
    pieces = ["春眠不觉晓" * 60, "处处闻啼鸟" * 60, "夜来风雨声" * 60, "花落知多少" * 60]
    text = token_ids(TOKENIZER, "。".join(pieces))
    way = Passages(model(), TOKENIZER, PASSAGE + 20)
    way.read(text, 20)
    found = way.found(Question([1] * 14, 6, score=float, query="昨夜听见风雨了吗。"))
    assert TOKENIZER.decode(found).count("夜来风雨声") > 3


@pytest.mark.parametrize("prompt", [" ?", " zyzzyva"])
def test_a_question_without_words_of_the_text(prompt: str) -> None:
    ids = TOKENIZER(prompt, add_special_tokens=False).input_ids
    way = Passages(model(), TOKENIZER, 220)
    for text in (TEXT[:300], TOKENIZER("..!..", add_special_tokens=False).input_ids):
        way.read(text, 40)
        assert way.found(question(ids)) == text[: 220 - len(ids) - 6]


# fotmem, and nothing but the question


def text_of(length: int, *questions: Question, start: int = 0) -> AskedText:
    read = TEXT[start : start + length - LOCAL]
    return AskedText(read, TEXT[start + length - LOCAL : start + length], questions)


def test_memory_is_a_way_as_the_others() -> None:
    asked = question(TEXT[200:207])
    with fotmem.attach(model(), window=32) as memory:
        way = AttachedMemory(model(), TOKENIZER, memory)
        for text in (text_of(100, start=500), text_of(150)):
            with way.reading(text, asked.room):
                found = way.answer(asked)
                assert memory.tokens.tolist() == text.read
                assert way.kept_bytes == memory.stats().ram_bytes
        memory.clear()
        remember(memory, TEXT[: 150 - LOCAL], attend=False)
        assert found == said([*TEXT[150 - LOCAL : 150], *asked.prompt])


def test_a_shared_text_is_read_once_and_edited_for_each_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = text_of(150, question(TEXT[200:207]))
    texts = [replace(first, edits=[Edit(range(n, n + 2), [7] * n)]) for n in (3, 90)]
    read: list[list[int]] = []

    def remembered(memory: fotmem.Memory, tokens: list[int], *, attend: bool) -> None:
        read.append(tokens)
        remember(memory, tokens, attend=attend)

    monkeypatch.setattr(attached_memory, "remember", remembered)
    other = text_of(150, question(TEXT[200:207]), start=1)
    with fotmem.attach(model(), window=32) as memory:
        way = AttachedMemory(model(), TOKENIZER, memory)
        for text in (first, *texts, other, first):
            with way.reading(text, 20):
                assert memory.tokens.tolist() == text.tokens[:-LOCAL]
            assert memory.tokens.tolist() == text.read
        read.clear()
        [*_, answers] = ask_all(way, [other, first, *texts])
    assert read == [other.read, first.read]
    assert [len(answers.scores), len(answers.first_seconds), len(answers.kept_bytes)] == [4, 2, 2]


def test_a_model_that_does_not_know_the_text_and_one_that_sees_the_evidence() -> None:
    asked = replace(question(TEXT[200:207]), evidence=TEXT[30:50])
    with (way := LocalText(model(), TOKENIZER)).reading(text_of(150), asked.room):
        assert way.answer(asked) == said([*TEXT[150 - LOCAL : 150], *asked.prompt])
    with (way := LocalText(model(), TOKENIZER, evidence=True)).reading(text_of(150), asked.room):
        assert way.answer(asked) == said([*TEXT[30:50], *TEXT[150 - LOCAL : 150], *asked.prompt])
        assert way.kept_bytes == 0


def test_an_answer_ends_where_its_question_says(monkeypatch: pytest.MonkeyPatch) -> None:
    speaks, steps = folders.model(), list[None]()
    text, asked = text_of(150), question(TEXT[200:207], new_tokens=9)
    begin = said([*text.local, *asked.prompt])[:3]
    plain = speaks.forward

    def counted(*given: Any, **named: Any) -> Any:
        steps.append(None)
        return plain(*given, **named)

    monkeypatch.setattr(speaks, "forward", counted)
    with (way := LocalText(speaks, TOKENIZER)).reading(text, asked.room):
        assert way.answer(replace(asked, until=lambda words: begin in words)).startswith(begin)
        assert len(steps) <= 3
        way.answer(replace(asked, until=lambda words: False))
        assert len(steps) > 9


# What is measured


class Clock(WindowWay):
    """Reading takes 100 seconds, an answer as many as it has tokens at most."""

    now = 0.0
    rooms: list[int]

    def read(self, text: list[int], room: int) -> None:
        self.now += 100
        self.text = text
        self.rooms.append(room)

    def answer(self, question: Question) -> str:
        self.now += question.new_tokens
        return str(len(self.text))

    @property
    def kept_bytes(self) -> int:
        return 10 * len(self.text)


def test_what_a_way_costs_and_reaches(monkeypatch: pytest.MonkeyPatch) -> None:
    way = Clock(model(), TOKENIZER, 64)
    way.rooms = []
    monkeypatch.setattr(run, "_now", lambda way: way.now)
    right = {"7": 1.0, "9": 0.5}
    texts = [
        AskedText(TEXT[:4], TEXT[4:7], [Question([1, 2], n, right.__getitem__) for n in (3, 5)]),
        AskedText(TEXT[:4], TEXT[4:9], [Question([1], n, right.__getitem__) for n in (11, 13)]),
    ]
    rows = [
        (way_row("clock", answers, task="vt", tokens=9), answers.seconds, [*answers.said])
        for answers in ask_all(way, texts)
    ]
    assert way.rooms == [7, 14]
    assert [row.questions for row, *_ in rows] == [1, 2, 3, 4]
    last, seconds, words = rows[-1]
    assert (seconds, words) == (200 + 3 + 5 + 11 + 13, ["7", "7", "9", "9"])
    assert (last.way, last.task, last.tokens, last.score) == ("clock", "vt", 9, 0.75)
    assert last.score_interval == wilson(3, 4)
    assert last.first_seconds == 107
    assert last.further_seconds == 8
    assert last.kept_bytes == 80


def test_means_over_tasks() -> None:
    row = WayRow("bm25", "a", 9, 0.5, wilson(1, 2), 2, 10.0, 1.0, 100)
    other = replace(row, task="b", score=1.0, first_seconds=20.0, further_seconds=3.0)
    other = replace(other, kept_bytes=300)
    alone = replace(row, way="sinks")
    unasked = replace(row, task="c", score=0.0)
    assert means_of([row, alone, other, unasked], ["a", "b"], "both") == [
        WayRow("bm25", "both", 9, 0.75, wilson(3, 4), 4, 15.0, 2.0, 200)
    ]


def test_names() -> None:
    check_names(["window", "bm25"])
    with pytest.raises(OptionError, match="some of window, context, bm25, sinks, got 'rag'"):
        check_names(["window", "rag"])
    ways = make_ways([*MEANINGS], model(), TOKENIZER, 64)
    assert [*ways] == [*MEANINGS]
    assert {name: way.window for name, way in ways.items()} == dict.fromkeys(MEANINGS, 64) | {
        "context": 256
    }
