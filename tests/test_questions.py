"""Natural questions about passages: the file, the pieces of text, the answers, the command."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from fotmem.errors import InputError
from fotmem.measure.evaluate.alternatives.run import Answers
from fotmem.measure.evaluate.intervals import ratio_interval
from fotmem.measure.evaluate.questions.answer_match import contains, token_f1
from fotmem.measure.evaluate.questions.question_file import Question, read_questions
from fotmem.measure.evaluate.questions.rows import make_row
from fotmem.measure.evaluate.questions.text_pieces import PASSAGE, cut
from fotmem.measure.evaluate.window_share import ThreeAnswers
from fotmem.measure.reading import LOCAL
from fotmem.models.tokens import token_ids
from recipes.texts.table import KINDS
from tests import folders
from tests.commands import call, refusal
from tests.pages import ROOT
from tests.tiny import one_thread  # noqa: F401 - a fixture

TOKENIZER = folders.tokenizer("digits")
FILLER = folders.PROSE[:1500]
TEXT = "".join(
    f"{FILLER}\nThe harbour of {town} was built by\n{name}, they say.\n{FILLER}"
    for town, name in (("Oslo", "Nora Berg"), ("Perth", "Jo Lund"), ("Bergen", "Mei Sato"))
)
ASKED = [
    Question(question=f"Who built {town}?", answers=[name], passage=f"{town} was built by")
    for town, name in (("Perth", "Jo Lund"), ("Oslo", "Nora Berg"), ("Bergen", "Mei Sato"))
]


# The file


def test_a_file_of_questions(tmp_path: Path) -> None:
    file = tmp_path / "asked.jsonl"
    file.write_text("\n".join(f"{each.model_dump_json()}\n" for each in ASKED))
    assert read_questions(file) == ASKED


@pytest.mark.parametrize(
    "line, reason",
    [
        ("{", "Invalid JSON"),
        ('{"question": "Who?", "answers": ["I"]}', "passage: Field required"),
        ('{"question": "Who?", "answers": [], "passage": "x"}', "answers: List should have"),
        ('{"question": "Who?", "answers": [" "], "passage": "x"}', "answers.0: String should"),
        ('{"question": "?", "answers": ["I"], "passage": "x", "text": "y"}', "text: Extra inputs"),
        (
            '{"question": "?", "answers": ["for", "The."], "passage": "x"}',
            "answers.1: Value error, 'The.' has no word beside articles and punctuation",
        ),
    ],
)
def test_a_line_that_is_no_question(line: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "asked.jsonl"
    file.write_text(f"{ASKED[0].model_dump_json()}\n\n{line}\n")
    with pytest.raises(InputError) as error:
        read_questions(file)
    assert str(error.value).startswith(f"{file}, line 3: expected an object such as ")
    assert reason in str(error.value)


def test_a_line_ends_where_its_file_says_so(tmp_path: Path) -> None:
    file = tmp_path / "asked.jsonl"
    question = ASKED[0].model_copy(update={"question": "Who\u2028built\x85it?"})
    lines = [json.dumps(each.model_dump(), ensure_ascii=False) for each in (question, ASKED[1])]
    file.write_text("\r\n".join(lines), encoding="utf-8", newline="")
    assert read_questions(file) == [question, ASKED[1]]


@pytest.mark.parametrize("folder", ["test", "choosing"])
def test_questions_of_the_recipe(folder: str) -> None:
    """There are some about each kind of text, and they quote few words of it."""
    files = sorted((ROOT / "recipes/questions" / folder).glob("*.jsonl"))
    asked = [question for file in files for question in read_questions(file)]
    assert [file.stem for file in files] == sorted(KINDS)
    counted = f"`recipes/questions/{folder}` has {len(asked)}\\s+questions"
    assert re.search(counted, (ROOT / "docs/cli.md").read_text(encoding="utf-8"))
    assert all(len(each.passage.split()) < 8 for each in asked)
    assert all(len(answer.split()) <= 5 for each in asked for answer in each.answers)
    assert len({each.passage for each in asked}) == len(asked)


# The pieces of text


def places(part: list[int], text: list[int]) -> list[int]:
    return [i for i in range(len(text) - len(part) + 1) if text[i : i + len(part)] == part]


def test_each_piece_holds_the_passages_it_is_asked_about() -> None:
    ids = token_ids(TOKENIZER, TEXT)
    for tokens in (PASSAGE + LOCAL, 700, 2000, 10**6):
        pieces = cut(TOKENIZER, TEXT, ASKED, tokens=tokens, seed=1)
        for piece in pieces:
            assert piece.tokens == min(tokens, len(ids))
            assert places(piece.read + piece.local, ids)
            for question, evidence in piece.asked:
                assert len(evidence) == PASSAGE
                assert places(evidence, piece.read)
                assert question.answers[0] in TOKENIZER.decode(evidence)
        asked = [each.question for piece in pieces for each in piece.asked]
        assert asked == [ASKED[1], ASKED[0], ASKED[2]]  # in the order of the text
    assert len(pieces) == 1  # all of the text
    assert [len(piece.asked) for piece in cut(TOKENIZER, TEXT, ASKED, tokens=400, seed=1)] == [
        1
    ] * 3


def test_passages_share_a_piece_if_it_is_long_enough() -> None:
    ids, asked = token_ids(TOKENIZER, TEXT), ASKED[:2]
    pieces = cut(TOKENIZER, TEXT, asked, tokens=400, seed=0)
    first, last = (places(piece.asked[0].evidence, ids)[0] for piece in pieces)
    enough = last + PASSAGE - first + LOCAL
    for tokens, number in ((enough, 1), (enough - 1, 2)):
        assert len(cut(TOKENIZER, TEXT, asked, tokens=tokens, seed=0)) == number


def test_a_passage_at_the_end_of_the_text_is_read() -> None:
    text = f"{FILLER} The harbour of Oslo was built by Nora Berg. {FILLER[:80]}"
    [piece] = cut(TOKENIZER, text, [ASKED[1]], tokens=10**6, seed=0)
    assert places(piece.asked[0].evidence, piece.read) == [len(piece.read) - PASSAGE]


def test_special_tokens_are_no_text() -> None:
    """Those that a tokenizer puts at the beginning and the end."""
    tokenizer = folders.tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert tokenizer(TEXT).input_ids[-1] == 2
    assert cut(tokenizer, TEXT, ASKED, tokens=700, seed=1) == cut(
        TOKENIZER, TEXT, ASKED, tokens=700, seed=1
    )


def test_the_seed_decides_where_a_piece_begins() -> None:
    def begins(seed: int) -> list[list[int]]:
        return [piece.read for piece in cut(TOKENIZER, TEXT, ASKED, tokens=500, seed=seed)]

    assert begins(1) == begins(1) != begins(2)


@pytest.mark.parametrize(
    "question, tokens, reason",
    [
        (
            {"passage": "was built by"},
            500,
            "'was built by' must occur once in the text, it occurs 3",
        ),
        ({"passage": "by nobody"}, 500, "'by nobody' must occur once in the text, it occurs 0"),
        ({"answers": ["Jo Lund"]}, 500, r"none of \['Jo Lund'\] stands within 128 tokens of 'Oslo"),
        ({}, PASSAGE + LOCAL - 1, "tokens must be at least 272 .* got 271"),
    ],
)
def test_passages_that_do_not_fit(question: dict[str, Any], tokens: int, reason: str) -> None:
    asked = ASKED[1].model_copy(update=question)
    with pytest.raises(InputError, match=reason):
        cut(TOKENIZER, TEXT, [asked], tokens=tokens, seed=0)


def test_a_text_that_is_too_short() -> None:
    with pytest.raises(InputError, match="tokens, 272 are needed: add text"):
        cut(TOKENIZER, "The harbour of Oslo was built by Nora Berg.", ASKED, tokens=500, seed=0)


# Scores


@pytest.mark.parametrize(
    "said, answers, right, f1",
    [
        ("The U.S. Senate!", ["us senate"], True, 1),
        ("in 1,024 days", ["1024", "1,024 days"], True, 0.8),
        ("category", ["cat"], False, 0),
        ("a dog and a cat", ["the cat"], True, 0.5),
        ("", ["x"], False, 0),
        ("x x y", ["x x z"], False, pytest.approx(2 / 3)),
        ("£5 = 5+0", ["5", "51"], True, pytest.approx(2 / 3)),
        ("किताब", ["कुताब"], False, 0),
        ("एक किताब।", ["किताब"], True, pytest.approx(2 / 3)),
        ("Café", ["cafe\u0301"], True, 1),
        ("花落知多少。", ["花落"], True, pytest.approx(4 / 7)),
        ("1984年に", ["1984"], True, pytest.approx(1 / 2)),
        ("กรุงเทพมหานคร", ["กรุงเทพ"], True, pytest.approx(14 / 20)),
    ],
)
def test_answers_are_compared_as_squad_does(
    said: str, answers: list[str], right: bool, f1: float
) -> None:
    assert (contains(said, answers), token_f1(said, answers)) == (right, f1)


# Rows


def test_rows() -> None:
    def answers(*said: str) -> Answers:
        return Answers([*said], [float("Jo Lund" in line) for line in said], seconds=len(said[0]))

    pieces = cut(TOKENIZER, TEXT, ASKED, tokens=800, seed=0)
    known = answers("Nora Berg\nJo Lund", "to Jo Lund", "Mei")
    three = ThreeAnswers(answers("No.", "No.", "No."), answers("Berg", "Jo Lund", "No."), known)
    row = make_row(pieces, "exact", three)
    assert (row.without_memory, row.with_memory, row.in_window) == (0, 1 / 3, 2 / 3)
    assert (row.share, row.trials, row.tokens, row.seconds) == (0.5, 3, 800, 4)
    assert row.share_interval == ratio_interval(1, 2, 1)
    assert row.apart == pytest.approx(1 / 3)
    assert row.f1.without_memory == 0
    assert row.f1.with_memory == pytest.approx((2 / 3 + 1) / 3)
    assert [each.in_window for each in row.said] == ["Nora Berg", "to Jo Lund", "Mei"]
    assert [each.with_memory for each in row.said] == ["Berg", "Jo Lund", "No."]
    assert row.said[0].question == "Who built Oslo?"
    silent = make_row(pieces, "exact", ThreeAnswers(*[answers("", "", "")] * 3))
    assert (silent.share, silent.share_interval) == (None, None)


# The command line


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    folder = folders.write(tmp_path_factory.mktemp("model"))
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    (folder / "asked.jsonl").write_text("\n".join(each.model_dump_json() for each in ASKED))
    files = ["--text", folder / "text.txt", "--questions", folder / "asked.jsonl"]
    return ["eval", "questions", folder, *files, "--window", 64]


def test_table_json_and_report(
    given: list[object],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fotmem.measure.evaluate.alternatives.asked_texts.NEW_TOKENS", 2)
    table = call(capsys, *given, "--tokens", "400,800")
    assert table.code == 0, table.err
    assert re.findall(r"│ (match|F1) +│ (\d+)", table.out) == [
        *(("match", "400"), ("F1", "400"), ("match", "800"), ("F1", "800")),
    ]
    assert "\nshare: " in table.out
    file = tmp_path / "report.json"
    [row] = json.loads(call(capsys, *given, "--tokens", 400, "--json", "--report", file).out)[
        "rows"
    ]
    report = json.loads(file.read_text())
    assert (report["task"], report["rows"]) == ("questions", [row])
    assert [each["question"] for each in row["said"]] == [
        *("Who built Oslo?", "Who built Perth?", "Who built Bergen?"),
    ]


def test_another_text_is_refused(
    given: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.txt").write_text(FILLER)
    line = refusal(capsys, 1, *given[:3], "--text", tmp_path / "other.txt", *given[5:])
    assert (
        "must occur once in the text, it occurs 0 times: give the text of these questions" in line
    )
