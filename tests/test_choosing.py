"""Choosing settings: the hard text, the scores of several settings, the tables, the command."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from safetensors.torch import save

import fotmem
from fotmem.arguments import PASSAGES
from fotmem.errors import InputError, LayerError, OptionError, StorageError
from fotmem.measure.evaluate.alternatives import bm25, local_text
from fotmem.measure.evaluate.bare_model import BareModel, window_losses
from fotmem.measure.evaluate.perplexity import measure_perplexity
from fotmem.measure.evaluate.questions.question_file import Question
from fotmem.measure.evaluate.questions.text_pieces import AskedQuestion, TextPiece
from fotmem.measure.reading import overlap_of
from fotmem.models.tokens import token_ids
from fotmem.tasks.answer import Answer
from recipes import choosing, choosing_scores, choosing_texts, hard_text
from recipes.choosing import complete, parsed, report_of
from recipes.choosing_scores import (
    BaseLosses,
    Scores,
    Setting,
    base_losses,
    score_hard_text,
    score_questions,
    score_text,
    scored_text,
)
from recipes.choosing_tables import answer_figure, figure, figures, tables
from recipes.hard_text import make_hard_text
from tests import folders, tiny
from tests.tiny import one_thread  # noqa: F401 - a fixture

TOKENIZER = folders.tokenizer()
PROSE = token_ids(TOKENIZER, folders.PROSE)
TEXTS = {"first": PROSE[:15_000], "second": PROSE[15_000:30_000]}
SETTINGS: list[Setting] = [
    {"decay": 0.0, "temperature": 1.0, "top_k": 8, "passages": 0},
    {"decay": 2.0, "temperature": 0.5, "top_k": None, "passages": 0},
]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten everything."""
    sizes = {"TOKENS": 4800, "TURN": 1200, "PASS_KEYS": 4, "FACTS": 6, "QUOTATIONS": 3}
    for name, size in sizes.items():
        monkeypatch.setattr(hard_text, name, size)
    for name, size in {"WINDOW": 64, "BEFORE": 128, "SCORED": 128}.items():
        monkeypatch.setattr(choosing_scores, name, size)


def decoded(ids: list[int]) -> str:
    return str(TOKENIZER.decode(ids))


def tiny_model() -> Any:
    model = tiny.llama(max_position_embeddings=1024, vocab_size=len(TOKENIZER))
    model.config.mem_layers = list(tiny.LAYERS)
    return model


@pytest.fixture
def memory() -> Iterator[fotmem.Memory]:
    with fotmem.attach(tiny_model(), window=256) as memory:
        yield memory


def model_of(memory: fotmem.Memory) -> Any:
    return memory.attached_model.parts.model


# The hard text


def test_what_is_asked_for_is_stated_once(small: None) -> None:
    hard = make_hard_text(TOKENIZER, TEXTS, 0)
    text = decoded(hard.ids)
    names = []
    for _, asked, answer in hard.pass_keys:
        name = decoded(asked).partition("What is the ")[2].partition("?")[0]
        assert text.count(f"\nThe {name} is {decoded(answer)}. Remember it.") == 1
        names.append(name)
    assert sum("pass key of" in name for name in names) == len(names) / 2 == 2
    assert [each.answer for each in hard.trained_wording] == [
        each.answer for each in hard.other_wording
    ]
    assert all(decoded(each.answer) in text for each in hard.trained_wording)
    assert len({*map(str, hard.trained_wording)}) == 6
    assert make_hard_text(TOKENIZER, TEXTS, 0) == hard
    assert make_hard_text(TOKENIZER, TEXTS, 1).ids != hard.ids


SENTENCE = "The harbour of Oslo was built by old Nora Berg, who later became its first captain. "


@pytest.mark.parametrize("texts", [TEXTS, {"one": token_ids(TOKENIZER, SENTENCE * 150)}])
def test_quotations_go_on_as_the_text_does(texts: dict[str, list[int]], small: None) -> None:
    """Only a sentence with a number differs from the others of the second text."""
    hard = make_hard_text(TOKENIZER, texts, 0)
    text = decoded(hard.ids)
    for _, asked, answer in hard.quotations:
        assert len(answer) == 8
        given = decoded(asked).partition('As it says above: "')[2]
        assert text.count(given) == text.count(given + decoded(answer)) == 1


def test_texts_take_turns_and_have_numbers(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PASS_KEYS", "FACTS", "QUOTATIONS"):
        monkeypatch.setattr(hard_text, name, 0)
    [first, second] = token_ids(TOKENIZER, "ab")
    hard = make_hard_text(TOKENIZER, {"a": [first] * 5000, "b": [second] * 5000}, 0)
    assert len(hard.ids) == 2 * 4800
    for start in range(0, 9600, 1200):
        own, other = (first, second)[:: 1 if start % 2400 == 0 else -1]
        turn = hard.ids[start : start + 1200]
        assert turn.count(own) > 800
        assert turn.count(other) < 10
    digits = sum(map(str.isdigit, decoded(hard.ids)))
    assert 3 < digits / (9600 / hard_text.TOKENS_PER_NUMBER) < 8


def test_texts_without_sentences_are_refused(small: None) -> None:
    code = token_ids(TOKENIZER, "x = 1\n" * 2000)
    with pytest.raises(InputError, match="have 0 sentences of 12 to 30 words"):
        make_hard_text(TOKENIZER, {"code": code}, 0)


@pytest.mark.parametrize("seed", range(5))
def test_nobody_has_a_pass_key_and_a_fact(
    seed: int, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fact could be about the same thing, with another number."""
    monkeypatch.setattr(hard_text, "PASS_KEYS", 40)
    monkeypatch.setattr(hard_text, "FACTS", 64)
    hard = make_hard_text(TOKENIZER, TEXTS, seed)
    asked = [decoded(each.asked) for each in hard.pass_keys]
    people = [each.partition("?")[0].partition(" of ")[2] for each in asked]
    assert len({*people}) == 40
    for question in hard.trained_wording:
        assert not any(person in decoded(question.asked) for person in people)


# The scores


def test_each_setting_gets_the_scores_that_it_gets_alone(
    small: None, memory: fotmem.Memory
) -> None:
    hard, model = make_hard_text(TOKENIZER, TEXTS, 0), model_of(memory)
    settings = [*SETTINGS, {**SETTINGS[0], "passages": 2}]
    every = score_hard_text(model, memory, hard, settings)
    assert [len(each) for each in every[0].values()] == [4, 4, 6, 6, 3]
    for setting, found in zip(settings, every, strict=True):
        assert score_hard_text(model, memory, hard, [setting]) == [found]
    quotations = {str(found["quotations (nats a token)"]) for found in every}
    assert len(quotations) == 3
    text = scored_text(PROSE[:2000])
    base = BaseLosses(*(BareModel(model, text).full(128).losses * share for share in (1.1, 1.0)))
    cost, shares = score_text(model, memory, text, base, SETTINGS)
    for setting, share in zip(SETTINGS, shares, strict=True):
        assert score_text(model, memory, text, base, [setting]) == (cost, [share])
    assert shares[0] != shares[1]


def test_exact_answers_and_digits(
    small: None, memory: fotmem.Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = [True, True, False, True, True]

    def choices(model: Any, prompt: list[int], truth: list[int]) -> list[bool]:
        first = hard.pass_keys[0]
        return right if prompt == [*first.local, *first.asked] else [True] * len(truth)

    monkeypatch.setattr(choosing_scores, "first_choices", choices)
    hard = make_hard_text(TOKENIZER, TEXTS, 0)
    [found] = score_hard_text(model_of(memory), memory, hard, SETTINGS[:1])
    assert found["pass keys"] == [0, 1, 1, 1]
    assert found["digits of pass keys"] == [0.8, 1, 1, 1]
    assert found["facts, trained wording"] == found["facts, other wording"] == [1] * 6
    assert memory.tokens.tolist() == hard.ids


def test_a_quotation_is_what_memory_adds(small: None, memory: fotmem.Memory) -> None:
    """Nothing, if the text is not in memory."""
    hard = make_hard_text(TOKENIZER, TEXTS, 0)
    model = model_of(memory)
    [found] = score_hard_text(model, memory, hard._replace(ids=[]), SETTINGS[:1])
    assert found["quotations (nats a token)"] == pytest.approx([0, 0, 0], abs=1e-6)


def test_the_share_is_that_of_the_perplexity_evaluation(small: None) -> None:
    """Times what full attention saves."""
    model, text = tiny_model(), scored_text(PROSE[:2000])
    windows = [window for part in text.parts for window in part.windows(64)]
    without = text.joined([window_losses(model, window) for window in windows])
    full = 0.9 * BareModel(model, text).full(128).losses
    with fotmem.attach(model, window=64, top_k=8) as memory:
        rows = [
            *measure_perplexity(
                model, memory, text, [128], store="exact", overlap=overlap_of(memory)
            )
        ]
    with fotmem.attach(model, window=64, top_k=8) as memory:
        base = BaseLosses(without, full)
        cost, [share] = score_text(model, memory, text, base, SETTINGS[:1])
    assert len(share) == len(cost) == 4
    assert cost == [0] * 4
    saved = fmean(share) * text.mean(without - full)
    assert saved == pytest.approx(-rows[1].difference, abs=1e-6)


def test_there_is_no_share_where_full_attention_saves_nothing(
    small: None, memory: fotmem.Memory
) -> None:
    """Its sign would be wrong."""
    text = scored_text(PROSE[:2000])
    full = BareModel(model_of(memory), text).full(128).losses
    cost, shares = score_text(
        model_of(memory), memory, text, BaseLosses(full, 1.1 * full), SETTINGS
    )
    assert len(cost) == 4
    assert shares == []


def test_questions_are_asked_in_the_window_and_with_memory(
    memory: fotmem.Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [
        AskedQuestion(Question(question=each, answers=["Nora"], passage="x"), [7, 8])
        for each in ("Who?", "Where?")
    ]
    piece = TextPiece([5, 6, 7, 8], [9], asked)
    found: list[Any] = []

    def answer(model: Any, tokenizer: Any, prompt: list[int], **options: Any) -> Answer:
        found.append((prompt[: prompt.index(9) + 1], len(memory), memory.decay))
        return Answer("Nora\nOmar" if "Who" in decoded(prompt) else "Omar\nNora", [])

    for module in (local_text, bm25):
        monkeypatch.setattr(module, "answer_question", answer)
    scores = score_questions(model_of(memory), TOKENIZER, memory, [piece, piece], SETTINGS)
    asked_about = (
        "natural questions",
        "natural questions, in the window",
        "natural questions, by BM25",
    )
    assert scores == [{each: [1, 0] * 2 for each in asked_about}] * 2
    in_window = [([7, 8, 9], 0, 0)] * 2
    by_bm25 = [([5, 6, 7, 8, 9], 0, 0)] * 2
    asked_with_memory = [([9], 4, 0)] * 2 + [([9], 4, 2)] * 2
    later = [each[:2] for each in found[8:12]]
    assert found[:8] == [*in_window, *by_bm25, *asked_with_memory]
    assert later == [each[:2] for each in (*in_window, *by_bm25)]
    assert found[12:] == asked_with_memory


def test_a_damaged_file_of_the_untuned_model_is_named(small: None, tmp_path: Path) -> None:
    file, texts = tmp_path / "smollm2-1.safetensors", {"prose": scored_text(PROSE[:2000])}
    cut_off = save({"prose without": torch.zeros(2, 128), "prose full": torch.zeros(2, 128)})[:99]
    for content in (cut_off, b"", save({"other without": torch.zeros(2, 128)})):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"smollm2-1.safetensors does .*: remove it, and run"):
            base_losses(texts, file)


def test_what_is_known_of_the_untuned_model_is_written_whole(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing_scores, "load_model", lambda *_, **__: (tiny_model(), TOKENIZER))
    file, texts = tmp_path / "build/smollm2-1.safetensors", {"prose": scored_text(PROSE[:2000])}
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", cut_off)
        with pytest.raises(StorageError, match="disk full"):
            base_losses(texts, file)
    assert not file.exists()
    measured = base_losses(texts, file)
    monkeypatch.setattr(choosing_scores, "load_model", None)
    for one, other in zip(measured["prose"], base_losses(texts, file)["prose"], strict=True):
        assert torch.equal(one.nan_to_num(), other.nan_to_num())


def cut_off(file: Path, content: bytes) -> int:
    with file.open("wb") as opened:
        opened.write(content[:9])
    raise OSError("disk full")


# The tables


def test_counts_have_the_interval_of_counts() -> None:
    assert answer_figure([1.0, 0.0]) == pytest.approx((0.5, 0.0945, 0.9055), abs=1e-4)
    assert answer_figure([0.5, 0.5]) == (0.5, 0.5, 0.5)
    assert figure([1.0, 1.0]) == (1, 1, 1)


def test_differences_are_paired_with_the_first_setting() -> None:
    shares = {"code": [0.5, 0.7], "tables": [0.2, 0.2]}
    first = Scores({"pass keys": [1.0, 0.0]}, shares, {"code": [0.1, 0.1], "tables": [0.0, 0.0]})
    better = {name: [each + 0.1 for each in some] for name, some in shares.items()}
    second = first._replace(shares=better)
    shown = tables({"decay": 0.5, "top_k": None}, second, first)
    assert shown.startswith("decay=0.5,top_k=all\n\n| asked | mean (95%) |")
    assert "| pass keys | 0.50 (0.09 to 0.91) |  |" in shown
    assert "| code | 0.70 (0.60 to 0.80) | 0.100 (0.100 to 0.100) | +0.100 |" in shown
    assert "| **mean** | 0.50 (" in shown
    assert "| **worst** (tables) | 0.30 |  | +0.100 |" in shown


def test_a_text_without_a_share_stands_beside_others() -> None:
    costs = {"code": [0.1, 0.1], "tables": [0.3, 0.3]}
    some = Scores({"pass keys": [1.0]}, {"code": [0.5, 0.7]}, costs)
    shown = tables({"decay": 0.5}, some, some)
    assert "| code | 0.60 (0.50 to 0.70) |  | +0.100 |\n| tables |  |  | +0.300 |\n" in shown
    assert "| **mean** | 0.60 (0.50 to 0.70) |  | +0.200 |\n" in shown
    assert "| **worst** (code) | 0.60 |  | +0.300 |" in shown
    assert figures(some)["shares"].keys() == {"code"}
    none = tables({"decay": 0.5}, some._replace(shares={}), some._replace(shares={}))
    assert "| tables |  |  | +0.300 |\n| **mean** |  |  | +0.200 |\n| **worst** |  |  |" in none


# The command


def test_a_setting_names_what_differs_from_the_model(memory: fotmem.Memory) -> None:
    assert parsed("decay=0.5,top_k=all") == {"decay": 0.5, "top_k": None}
    by_layer = parsed("decay=1:0.5,3:0,top_k=all")
    assert complete(memory, by_layer)["decay"] == {1: 0.5, 3: 0}
    others = {"decay": 0, "top_k": 32, "passages": PASSAGES}
    assert complete(memory, parsed("temperature=2")) == {"temperature": 2, **others}
    assert complete(memory, parsed("passages=0"))["passages"] == 0
    with pytest.raises(OptionError, match="temperature"):
        complete(memory, parsed("temperature=-1"))


@pytest.mark.parametrize("words", ["", "decay", "window=5", "decay=x", "decay=-1", "top_k=1.5"])
def test_another_setting_is_refused(words: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected one or more of decay, temp"):
        parsed(words)


def test_a_setting_that_does_not_fit_is_refused_first(memory: fotmem.Memory) -> None:
    """Not in its turn, after others were measured."""
    with pytest.raises(LayerError, match="decay names layer 0, which has no memory"):
        complete(memory, parsed("passages=1,decay=0:1"))
    with pytest.raises(OptionError, match="passages must be an integer of at least 0, got -1"):
        complete(memory, parsed("passages=-1"))


@pytest.mark.parametrize(
    "model, name",
    [
        ("smollm2-fot", "smollm2-fot"),
        ("exp/a/tuned", "exp-a-tuned"),
        ("exp/b/tuned/", "exp-b-tuned"),
        ("/srv/tuned", "srv-tuned"),
    ],
)
def test_each_model_has_its_own_report(model: str, name: str) -> None:
    assert report_of(model) == choosing.BUILD / f"{name}.json"


@pytest.fixture
def loaded(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the models that are loaded; write two texts."""
    for name, begin in (("manual", 0), ("prose", 40_000)):
        (tmp_path / f"{name}.txt").write_text(folders.PROSE[begin : begin + 40_000])
    monkeypatch.setattr(choosing_texts, "QUESTIONS", tmp_path / "questions")
    monkeypatch.setattr(choosing_texts, "PIECE", 1000)
    monkeypatch.setattr(choosing, "BUILD", tmp_path / "build")
    monkeypatch.setattr(choosing, "WINDOW", 64)
    names: list[str] = []

    def load(name: str, **options: Any) -> tuple[Any, Any]:
        names.append(name)
        return tiny_model(), TOKENIZER

    monkeypatch.setattr(choosing, "load_model", load)
    monkeypatch.setattr(choosing_scores, "load_model", load)
    return names


def write_question(folder: Path, passage: str) -> None:
    folder.mkdir()
    asked = Question(question="Who?", answers=[passage.split(maxsplit=1)[0]], passage=passage)
    (folder / "manual.jsonl").write_text(asked.model_dump_json())


def test_the_report_has_each_setting(
    loaded: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    passage = folders.PROSE[20_000:20_060].partition(" ")[2].rpartition(" ")[0]
    write_question(tmp_path / "questions", passage)
    file = tmp_path / "report.json"
    for _ in range(2):
        choosing.main("tuned", tmp_path, [{}, {"top_k": None}], file)
    assert loaded == ["tuned", "smollm2", "tuned"]  # the second run knows its losses
    report = json.loads(file.read_text())
    assert {"machine", "versions", "time"} < {*report}
    assert report["options"]["model"] == "tuned"
    assert [each["setting"]["top_k"] for each in report["rows"]] == [32, None]
    for row in report["rows"]:
        assert {*row["scores"]["costs"]} == {"manual", "prose"}
        assert len(row["scores"]["answers"]["natural questions"]) == 1
        assert row["figures"]["costs"]["prose"] == [0, 0, 0]
    assert capsys.readouterr().out.count("top_k=all") == 2


def test_texts_without_questions_and_a_report_that_cannot_be_written(
    loaded: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The tables are printed before."""

    def disk_full(file: Path, content: dict[str, Any]) -> None:
        raise StorageError(f"cannot write {file}")

    monkeypatch.setattr(choosing, "write_report", disk_full)
    with pytest.raises(StorageError):
        choosing.main("tuned", tmp_path, [{"passages": 0}], tmp_path / "report.json")
    printed = capsys.readouterr().out
    assert "| pass keys | " in printed
    assert "natural questions" not in printed


def test_a_place_without_room_for_the_report_is_refused_first(
    loaded: list[str], tmp_path: Path
) -> None:
    with pytest.raises(StorageError, match="cannot write"):
        choosing.main("tuned", tmp_path, [{}], tmp_path)
    assert loaded == []


def test_texts_that_are_refused_are_named_first(
    loaded: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the untuned model is measured."""

    def refused(reason: str) -> None:
        with pytest.raises(InputError, match=reason):
            choosing.main("tuned", tmp_path, [{}], tmp_path / "report.json")

    with monkeypatch.context() as patch:
        patch.setattr(hard_text, "QUOTATIONS", 10**6)
        refused("the texts have .* sentences .* and 1000000 are needed")
    (tmp_path / "short.txt").write_text("too short")
    refused(r"short.txt: the text has 7 tokens, 512 are needed")
    write_question(tmp_path / "questions", "Omar was here")
    refused(r"manual.txt: the passage 'Omar was here' must occur once")
    assert loaded == ["tuned"] * 3


def test_a_folder_without_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="run make texts, or put one there"):
        choosing.main("tuned", tmp_path, [{}], tmp_path / "report.json")
