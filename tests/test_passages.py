"""Passages: attended tokens that lie together, in their documents."""

from typing import Any

import pytest

import fotmem
from fotmem import AttendedToken
from fotmem.documents import Document, tokenized
from fotmem.models.load import load_model
from fotmem.tasks.passages import passages
from tests import folders
from tests.tiny import one_thread  # noqa: F401 - a fixture

TEXTS = {"a": folders.PROSE[:400], "b": "Möwen sail 漢字 48213 to the island, while others sleep."}


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A memory of two documents and of tokens without a document, and its tokenizer."""
    model, tokenizer = load_model(str(folders.write(tmp_path_factory.mktemp("model"))))
    memory = fotmem.attach(model, window=32)
    for name, text in TEXTS.items():
        memory.read(tokenized(Document(name, text), tokenizer))
    memory.read(tokenizer(folders.PROSE[500:600], add_special_tokens=False).input_ids)
    return memory, tokenizer


def attended(*positions: int) -> list[AttendedToken]:
    """Tokens of which the later ones have more weight."""
    return [AttendedToken(3, 0, at, at / 1000, "") for at in positions]


def test_every_passage_is_a_part_of_its_document(read: Any) -> None:
    memory, tokenizer = read
    for position in range(len(memory)):
        [found] = passages(memory, tokenizer, attended(position), around=3)
        first, stop = found.tokens
        assert first <= position < stop <= first + 7
        if found.document:
            assert found.characters is not None
            begin, end = found.characters
            whole = TEXTS[found.document]
            assert found.text.strip() in whole[max(0, begin - 1) : end + 1]
            assert whole[begin:end].strip() == "" or found.text.strip()
        else:
            assert found.characters is None
            assert found.text.strip() in folders.PROSE[500:600]


def test_neighbours_are_one_passage(read: Any) -> None:
    memory, tokenizer = read
    tokens = {each.name: range(each.first, each.first + each.tokens) for each in memory.documents}
    last, begin = tokens["a"][-1], tokens["b"][0]
    found = passages(memory, tokenizer, attended(5, 10, 12, 40, last, begin), around=4)
    assert [(each.document, each.tokens, each.weight) for each in found] == [
        ("b", (begin, begin + 5), begin / 1000),
        ("a", (last - 4, last + 1), last / 1000),
        ("a", (36, 45), 0.04),
        ("a", (1, 17), 0.012),
    ]
    assert passages(memory, tokenizer, []) == []
