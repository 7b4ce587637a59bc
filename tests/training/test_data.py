"""The data of a training: documents, and pairs of windows with facts."""

import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset

import fotmem
from fotmem.memory.decay import OLDEST
from fotmem.tasks.facts import Facts
from fotmem.training.documents import read_documents, split_off
from fotmem.training.pairs import Pairs
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


# Pairs


def test_facts_of_the_previous_window_are_asked_in_the_current_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fotmem.training.pairs.TOKENS_PER_FACT", 66)  # a token is a character here
    tokenizer = folders.tokenizer()
    run = torch.tensor(tokenizer(prose(4000)).input_ids)
    pairs = Pairs([run], tokenizer, window=400, facts=1.0, size=20, seed=3)
    for index in range(20):
        pair = pairs[index]
        assert {name: tensor.shape for name, tensor in pair.items()} == {
            "earlier": (0, 400),
            "previous": (400,),
            "current": (400,),
            "answers": (400,),
            "age": (),
        }
        previous, current = (str(tokenizer.decode(pair[name])) for name in ("previous", "current"))
        facts = [Facts(3)[index * 6 + place] for place in range(6)]
        assert all(fact.key.lower() in previous.lower() for fact in facts)
        assert all(fact.answer in previous for fact in facts)
        asked = [fact for fact in facts if fact.key.lower() in current.lower()]
        assert len(asked) == 5
        said = str(tokenizer.decode(pair["current"][pair["answers"]]))
        assert sorted(said.split()) == sorted(fact.answer for fact in asked)
        again = Pairs([run], tokenizer, window=400, facts=1.0, size=20, seed=3)[index]
        assert all(torch.equal(pair[name], again[name]) for name in pair)


def test_facts_get_a_random_age_and_text_does_not() -> None:
    run = folders.tokenizer()(prose(900), return_tensors="pt").input_ids[0]
    pairs = Pairs([run], folders.tokenizer(), window=200, facts=0.7, size=300, seed=0)
    drawn = [pairs[index] for index in range(300)]
    told = torch.stack([pair["answers"].any() for pair in drawn])
    ages = torch.stack([pair["age"] for pair in drawn])
    assert bool((ages[~told] == 1).all())
    logarithms = ages[told].log() / torch.tensor(OLDEST).log()
    assert float(logarithms.min()) >= 0
    assert float(logarithms.max()) <= 1
    assert logarithms.quantile(torch.tensor([0.25, 0.75])).tolist() == pytest.approx(
        [0.25, 0.75], abs=0.1
    )


def test_the_current_window_continues_the_previous_one() -> None:
    run = torch.arange(1000)
    pairs = Pairs([run], folders.tokenizer(), window=50, facts=0.0, size=9, seed=0)
    for index in range(9):
        pair = pairs[index]
        both = torch.cat([pair["previous"], pair["current"]])
        assert torch.equal(both.diff(), torch.ones(99, dtype=torch.long))
        assert not pair["answers"].any()
    with pytest.raises(IndexError):
        pairs[9]


def test_earlier_windows_come_directly_before_the_previous_one() -> None:
    runs = [torch.arange(1000), torch.arange(2000, 2160)]  # the second has room for one
    pairs = Pairs(runs, folders.tokenizer(), window=50, facts=0.0, size=30, seed=0, earlier=4)
    counts = set()
    for index in range(30):
        pair = pairs[index]
        text = torch.cat([pair["earlier"].flatten(), pair["previous"], pair["current"]])
        assert torch.equal(text.diff(), torch.ones(len(text) - 1, dtype=torch.long))
        counts.add((int(text[0]) >= 2000, len(pair["earlier"])))
    assert counts == {(False, 4), (True, 1)}
    told = Pairs(runs[:1], folders.tokenizer(), window=50, facts=1.0, size=1, seed=0, earlier=4)[0]
    assert told["earlier"].shape == (0, 50)


def test_numbers_are_put_into_a_share_of_the_text() -> None:
    tokenizer = folders.tokenizer()
    run = torch.tensor(tokenizer(prose(4000)).input_ids)
    plain = set(run.tolist())
    pairs = Pairs([run], tokenizer, window=300, facts=0.0, size=200, seed=0, numbers=0.3)
    texts = [
        torch.cat([pair["previous"], pair["current"]])
        for pair in map(pairs.__getitem__, range(200))
    ]
    assert {len(text) for text in texts} == {600}
    numbered = [str(tokenizer.decode(text)) for text in texts if not set(text.tolist()) <= plain]
    assert 40 <= len(numbered) <= 80
    assert all(sum(map(str.isdigit, text)) >= 5 for text in numbered)


def test_a_longer_document_is_drawn_more_often_but_not_as_often_as_its_length() -> None:
    runs = [torch.zeros(500, dtype=torch.long), torch.ones(8000, dtype=torch.long)]
    pairs = Pairs(runs, folders.tokenizer(), window=50, facts=0.0, size=1000, seed=0)
    longer = sum(int(pairs[index]["current"][0]) for index in range(1000))
    assert longer / 1000 == pytest.approx(4 / 5, abs=0.04)


def test_facts_do_not_contradict_each_other() -> None:
    facts = [Facts(0)[number] for number in range(1000)]
    assert len({fact.key for fact in facts}) == 1000
