"""Questions that are made from sentences: each is answered by the sentence."""

import random

import pytest

from fotmem.tasks.sentence_questions import make_question, questions, sentences


@pytest.mark.parametrize(
    ("sentence", "asked", "answer"),
    [
        (
            "Grace Hopper wrote the first compiler for a computer",
            "Who wrote the first compiler for a computer?",
            "Grace Hopper",
        ),
        (
            "The pgcrypto module allows certain fields to be stored encrypted",
            "What does the pgcrypto module allow?",
            "certain fields to be stored encrypted",
        ),
        (
            "The key to my room is on the old table",
            "What is the key to my room?",
            "on the old table",
        ),
        (
            "The library was opened by the mayor in 1912 after years",
            "In which year: The library was opened by the mayor after years?",
            "1912",
        ),
        (
            "All of them live in two huts north of this castle",
            "How many huts: All of them live in north of this castle?",
            "two",
        ),
        (
            "The army had 10,000 soldiers in the field",
            "How many soldiers: The army had in the field?",
            "10,000",
        ),
        (
            "The archive holds 1,234 pages, all of them old",
            "What does the archive hold?",
            "1,234 pages",
        ),
    ],
)
def test_forms_of_sentences(sentence: str, asked: str, answer: str) -> None:
    made = {each.asked: each.answer for each in questions(sentence, random.Random(0))}
    assert made[asked] == answer


@pytest.mark.parametrize(
    ("sentence", "asked", "answer"),
    [
        (
            "It was built by Robert Gentleman for the press",
            "Who It was built by",
            "Robert Gentleman",
        ),
        ("Most of them were buried near Oslo in that year", "Where Most of them were", "Oslo"),
        ("We use the --verbose option of the tool there", "Which We use the option", "--verbose"),
        ('They called it "the old one" and went away', "Which They called it and", "the old one"),
    ],
)
def test_names_inside_sentences(sentence: str, asked: str, answer: str) -> None:
    """Words around a name; in half of the questions some of them are missing."""
    made = [each for seed in range(20) for each in questions(sentence, random.Random(seed))]
    about = [each.asked for each in made if each.answer == answer]
    assert any(each.startswith(asked) for each in about)
    assert len({*about}) > 1
    assert not any(answer in each for each in about)


@pytest.mark.parametrize(
    "sentence",
    [
        "The driver does not support the old cards",
        "The old way is not a way of ours",
        "The driver never supports the old cards",
        "The rate was 3.5 hours of it",
    ],
)
def test_no_answer_is_a_negation_or_a_part_of_a_number(sentence: str) -> None:
    for each in questions(sentence, random.Random(0)):
        assert not {"not", "never"} & {*each.answer.split()}
        assert each.answer not in ("5", "000")


def test_the_rest_of_a_name_is_no_name() -> None:
    found = [*questions("Old Ada Lovelace sat on the mat of it", random.Random(0))]
    assert not any(each.answer == "Lovelace" for each in found)


@pytest.mark.parametrize(
    "sentence",
    ["It was opened by the mayor of the town", "Whales, sharks, and many other kinds of fish"],
)
def test_nothing_is_asked_about_what_points_elsewhere(sentence: str) -> None:
    assert [*questions(sentence, random.Random(0))] == []


def test_only_whole_sentences_are_used() -> None:
    text = (
        "end of one. The cat sat on the\nmat of the old house. Too short. "
        "The dog ran after it for many"
    )
    assert [*sentences(text)] == ["The cat sat on the mat of the old house"]


def test_a_text_without_sentences() -> None:
    assert make_question("x = 3\n\ny = 4", random.Random(0)) is None
    text = "So. Ada Lovelace published the first program for a machine. So."
    asked = {str(make_question(text, random.Random(seed))) for seed in range(40)}
    assert len(asked) > 5
    assert all("Ada Lovelace" in each for each in asked)
