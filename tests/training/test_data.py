"""The data of a training: documents, and windows of them with questions about windows before."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor

import fotmem
from fotmem.tasks.facts import Facts
from fotmem.tasks.quotations import GAP, make_quotation
from fotmem.training.documents import read_documents, split_off
from fotmem.training.examples import Examples
from fotmem.training.options import OLDEST
from tests import folders
from tests.tiny import difference, one_thread  # noqa: F401 - a fixture
from tests.training.tuned import prose

# Documents


def test_documents_of_every_kind(tmp_path: Path, text: Path) -> None:
    tokenizer = folders.tokenizer()
    long, short = prose(100, 1), prose(10, 2)
    lines = tmp_path / "documents.jsonl"
    lines.write_text("\n".join(json.dumps({"text": t}) for t in [short, long, short, short] * 3))
    dataset = tmp_path / "dataset"
    Dataset.from_dict({"text": [long, long]}).save_to_disk(str(dataset))
    runs = read_documents([text, lines, dataset], tokenizer, least=60)

    def tokens(given: str) -> list[int]:
        return list(tokenizer(given, add_special_tokens=False).input_ids)

    assert runs[0].tolist() == tokens(text.read_text())
    assert runs[1].tolist() == tokens(long)
    joined = runs[2].tolist() if len(runs[2]) != len(tokens(long)) else runs[3].tolist()
    assert joined[: len(tokens(short)) + 1] == [*tokens(short), tokenizer.eos_token_id]
    assert [run.tolist() for run in runs[-2:]] == [tokens(long)] * 2
    assert all(len(run) >= 60 for run in runs)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("short.txt", b"too short", "has .* tokens, two windows take 64: add text"),
        ("empty.txt", b" \n", "is empty"),
        ("binary.txt", b"a\0b" * 90, "is binary, not text"),
        ("latin.txt", "é".encode("latin-1") * 90, "is not UTF-8 text"),
        ("broken.jsonl", b'{"text": "a"}\n{"text"', "line 2: expected an object such as"),
        ("list.jsonl", b'["text"]', "line 1: expected an object such as"),
        ("number.jsonl", b'{"text": 3}', "line 1: text must be a string, got 3"),
        ("missing.txt", None, "cannot be read: No such file"),
    ],
)
def test_bad_data_is_named(tmp_path: Path, name: str, content: bytes | None, reason: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(fotmem.errors.InputError, match=f"{name}.*{reason}"):
        read_documents([path], folders.tokenizer(), least=64)


def test_a_folder_that_is_not_a_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(fotmem.errors.InputError, match="is not a dataset on disk"):
        read_documents([tmp_path], folders.tokenizer(), least=64)
    Dataset.from_dict({"words": ["a"]}).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(fotmem.errors.InputError, match="must be a dataset with a text column"):
        read_documents([tmp_path / "set"], folders.tokenizer(), least=64)


def test_the_ends_of_documents_are_split_off() -> None:
    runs = [torch.arange(1000), torch.arange(30)]
    kept, ends = split_off(runs, 0.05, least=20)
    assert torch.equal(torch.cat([kept[0], ends[0]]), runs[0])
    assert (len(ends), len(ends[0])) == (1, 50)
    assert kept[1] is runs[1]
    with pytest.raises(fotmem.errors.InputError, match="the longest document has 30 tokens"):
        split_off(runs[1:], 0.05, least=20)


# Examples


def examples(runs: list[Tensor], **options: Any) -> Examples:
    few = {"window": 50, "windows": 4, "facts": 0.0, "quotations": 0.0, "numbers": 0.0}
    few |= {"questions": 0.0, "batch": 1, "size": 300, "seed": 0}
    return Examples(runs, folders.tokenizer(), **few | options)


def encoded(words: int) -> Tensor:
    return torch.tensor(folders.tokenizer()(prose(words)).input_ids)


def test_facts_are_asked_for_in_windows_after_the_one_that_states_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "fotmem.training.examples.TOKENS_PER_FACT", (200,)
    )  # a token is a character
    monkeypatch.setattr("fotmem.training.examples.FACTS_AT_ONCE", (1,))
    tokenizer, run = folders.tokenizer(), encoded(4000)
    options: dict[str, Any] = {"window": 400, "facts": 1.0, "seed": 3}
    drawn, asked_in = examples([run], **options), set()
    for index in range(20):
        example = drawn[index]
        assert {name: tensor.shape for name, tensor in example.items()} == {
            "windows": (4, 400),
            "answers": (4, 400),
            "age": (),
        }
        texts = [str(tokenizer.decode(window)).lower() for window in example["windows"]]
        facts = [Facts(3)[index * 8 + place] for place in range(8)]
        assert not example["answers"][0].any()
        for place, text in enumerate(texts):
            said = example["windows"][place][example["answers"][place]]
            for answer in str(tokenizer.decode(said)).split():
                keys = [fact.key.lower() for fact in facts if fact.answer == answer]
                assert any(key in text for key in keys)
                assert any(
                    key in before and answer.lower() in before
                    for key in keys
                    for before in texts[:place]
                )
                asked_in.add(place)
        again = examples([run], **options)[index]
        assert all(torch.equal(example[name], again[name]) for name in example)
    assert asked_in == {1, 2, 3}


def test_several_facts_are_asked_for_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fotmem.training.examples.TOKENS_PER_FACT", (250,))
    monkeypatch.setattr("fotmem.training.examples.FACTS_AT_ONCE", (3,))
    monkeypatch.setattr("fotmem.tasks.facts.WORDED", {})
    drawn = examples([encoded(6000)], window=500, facts=1.0, size=20)
    tokenizer, groups = folders.tokenizer(), set()

    def said(tokens: Tensor) -> str:
        return str(tokenizer.decode(tokens)).strip()

    for example in map(drawn.__getitem__, range(20)):
        windows, masks = example["windows"], example["answers"].int().tolist()
        texts = [said(window) for window in windows]
        for place, mask in enumerate(masks):
            for answer_at in re.finditer("1+", "".join(map(str, mask))):
                answers = re.split(", | and ", said(windows[place][slice(*answer_at.span())]))
                told = [
                    window
                    for answer in answers
                    for window, text in enumerate(texts[:place])
                    if re.search(rf"(?<!\d){answer}(?!\d)", text)
                ]
                assert len(told) == len(answers)
                assert told == sorted(set(told))  # in windows of their own, in this order
                is_one_key = re.search(rf"one (.*) is {answers[0]}", texts[told[0]])
                groups.add((len(answers), is_one_key is not None))
    assert {(3, True), (3, False)} <= groups


def test_quotations_are_from_windows_before() -> None:
    tokenizer = folders.tokenizer()
    words = [f"word{number:05d}" for number in range(2000)]
    run = torch.tensor(tokenizer(" ".join(words)).input_ids)
    drawn = examples([run], window=900, windows=3, quotations=1.0, size=20)
    found: list[bool] = []
    for index in range(20):
        windows, answers = drawn[index]["windows"], drawn[index]["answers"]
        assert drawn[index]["age"] == 1
        assert not answers[0].any()
        text = ""
        for window, mask in zip(windows, answers, strict=True):
            said = re.findall(r"word\d{5}", str(tokenizer.decode(window[mask])))
            found += [word in text for word in said]
            text += str(tokenizer.decode(window))
    assert len(found) > 40
    assert sum(found) > 0.9 * len(found)  # a question may stand in the middle of a word


def test_questions_are_about_sentences_of_windows_before() -> None:
    tokenizer = folders.tokenizer()
    numbers = range(10, 99)
    said = " ".join(f"Anna Berg{each} wrote letter{each} for the king." for each in numbers)
    run = torch.tensor(tokenizer(said).input_ids)
    drawn = examples([run], window=900, windows=3, questions=1.0, size=20)
    found: list[bool] = []
    for index in range(20):
        windows, answers = drawn[index]["windows"], drawn[index]["answers"]
        assert not answers[0].any()
        text = ""
        for window, mask in zip(windows, answers, strict=True):
            names = re.findall(r"Anna Berg\d\d", str(tokenizer.decode(window[mask])))
            found += [f"{name} wrote" in text for name in names]
            text += str(tokenizer.decode(window))
    assert len(found) > 40
    assert sum(found) > 0.9 * len(found)


def test_a_quotation_is_completed_by_what_the_text_says() -> None:
    text = " ".join(f"word{number:02d}," for number in range(60))
    draw = random.Random(0)
    gaps = 0
    for _ in range(200):
        made = make_quotation(text, draw)
        assert made is not None
        whole = f"{made.asked} {made.answer}"
        if GAP in made.asked:
            gaps += 1
            whole = made.asked.replace(GAP, f"{made.answer},")
        quoted = re.findall(r"word\d\d,", whole)
        assert " ".join(quoted) in text
        assert 10 <= len(quoted) <= 32
    assert 60 < gaps < 140
    assert make_quotation("only a few words", draw) is None


def test_facts_get_a_random_age_and_text_does_not() -> None:
    drawn = [
        *map(examples([encoded(900)], window=200, windows=2, facts=0.7).__getitem__, range(300))
    ]
    told = torch.stack([example["age"] > 1 for example in drawn])
    ages = torch.stack([example["age"] for example in drawn])
    assert 0.6 < told.float().mean() < 0.8
    assert not any(example["answers"].any() for example in drawn if example["age"] == 1)
    logarithms = ages[told].log() / torch.tensor(OLDEST).log()
    assert float(logarithms.max()) <= 1
    assert logarithms.quantile(torch.tensor([0.25, 0.75])).tolist() == pytest.approx(
        [0.25, 0.75], abs=0.1
    )


def test_windows_follow_each_other_and_a_short_document_has_fewer() -> None:
    runs = [torch.arange(1000), torch.arange(2000, 2120)]
    drawn, counts = examples(runs), set()
    for index in range(30):
        windows = drawn[index]["windows"]
        text = windows.flatten()
        assert torch.equal(text.diff(), torch.ones(len(text) - 1, dtype=torch.long))
        assert not drawn[index]["answers"].any()
        counts.add((int(text[0]) >= 2000, len(windows)))
    assert counts == {(False, 4), (True, 2)}
    with pytest.raises(IndexError):
        drawn[300]


def test_text_goes_on_after_what_is_put_into_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fotmem.training.examples.TOKENS_PER_FACT", (400,))
    run = torch.arange(10**5, 10**5 + 4000)  # no tokens of what is put in
    drawn = examples([run], window=400, windows=3, facts=1.0, numbers=1.0, size=1)[0]["windows"]
    text = drawn[drawn >= 10**5]
    assert 300 < len(text) < 1100
    assert torch.equal(text.diff(), torch.ones(len(text) - 1, dtype=torch.long))


def test_numbers_are_put_into_a_share_of_the_text() -> None:
    run = encoded(4000)
    plain = set(run.tolist())
    drawn = examples([run], window=300, windows=2, numbers=0.3, size=200)
    texts = [drawn[index]["windows"].flatten() for index in range(200)]
    assert {len(text) for text in texts} == {600}
    numbered = [
        str(folders.tokenizer().decode(text)) for text in texts if not set(text.tolist()) <= plain
    ]
    assert 40 <= len(numbered) <= 80
    assert all(sum(map(str.isdigit, text)) >= 5 for text in numbered)


def test_a_longer_document_is_drawn_more_often_but_not_as_often_as_its_length() -> None:
    runs = [torch.zeros(500, dtype=torch.long), torch.ones(8000, dtype=torch.long)]
    drawn = examples(runs, size=1000)
    longer = sum(int(drawn[index]["windows"][0, 0]) for index in range(1000))
    assert longer / 1000 == pytest.approx(4 / 5, abs=0.04)


def test_documents_of_a_batch_are_different_pieces() -> None:
    """Otherwise a negative would tell what comes next."""
    runs = [torch.arange(1000), torch.arange(5000, 5450)]
    drawn = examples(runs, batch=3, size=60)
    for first in range(0, 60, 3):
        texts = [
            set(drawn[index]["windows"].flatten().tolist()) for index in range(first, first + 3)
        ]
        assert len(set.union(*texts)) == 600
    assert torch.equal(drawn[4]["windows"], examples(runs, batch=3, size=60)[4]["windows"])
    short = examples([torch.arange(250)], batch=2)  # there are no two
    assert short[1]["windows"].shape == (4, 50)


def test_facts_do_not_contradict_each_other() -> None:
    facts = [Facts(0)[number] for number in range(1000)]
    assert len({fact.key for fact in facts}) == 1000
