"""RULER: what the tasks are made of, how answers are scored, and what a model is asked."""

import functools
import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest

import fotmem
from fotmem.cli.evaluate.ruler import _show
from fotmem.errors import InputError
from fotmem.measure.evaluate.alternatives.run import Answers
from fotmem.measure.evaluate.intervals import ratio_interval, wilson
from fotmem.measure.evaluate.ruler import haystacks, lists, needles, passages, people, words
from fotmem.measure.evaluate.ruler.haystacks import NOISE, Source
from fotmem.measure.evaluate.ruler.rows import make_row, mean_of_needles
from fotmem.measure.evaluate.ruler.sample import Sample, match
from fotmem.measure.evaluate.ruler.tasks import NEEDLES, TASKS, make_samples
from fotmem.measure.evaluate.window_share import ThreeAnswers
from fotmem.measure.reading import LOCAL
from tests import folders
from tests.commands import call, refusal
from tests.tiny import one_thread  # noqa: F401 - a fixture

TEXT = folders.PROSE[:40_000]
TOKENS = 3000
TOKENIZER: Any = folders.tokenizer()


@functools.cache
def source() -> Source:
    return Source(TOKENIZER, TEXT)


@functools.cache
def samples(task: str, trials: int = 3, tokens: int = TOKENS) -> list[Sample]:
    return make_samples(source(), task, tokens=tokens, trials=trials, seed=0)


@functools.cache
def sharing(task: str, tokens: int = TOKENS, readings: int = 1) -> list[Sample]:
    """Three samples of one text, or of as many as are read."""
    how: dict[str, Any] = {"tokens": tokens, "trials": 3, "seed": 0, "window": 64}
    return make_samples(source(), task, readings=readings, **how)


def told(sample: Sample) -> str:
    """The whole text that is asked about."""
    return str(TOKENIZER.decode(sample.text))


def asked(sample: Sample) -> str:
    return str(TOKENIZER.decode(sample.question))


def known(sample: Sample) -> str:
    return str(TOKENIZER.decode(sample.evidence))


# Scores


@pytest.mark.parametrize(
    ("said", "every", "some"),
    [
        ("", 0, 0),
        ("Lisbon", 0.5, 1),
        ("in LISBON, or in PoRto.", 1, 1),
        ("Porto Porto", 0.5, 1),
        ("Lis bon", 0, 0),
    ],
)
def test_scores_by_definition(said: str, every: float, some: float) -> None:
    assert match(said, ["Lisbon", "porto"]) == every
    assert match(said, ["Lisbon", "porto"], one_suffices=True) == some


# Every task


@pytest.mark.parametrize("task", TASKS)
def test_a_sample_depends_on_its_number_and_the_seed(task: str) -> None:
    make = functools.partial(make_samples, Source(TOKENIZER, TEXT), task, tokens=TOKENS)
    assert make(trials=2, seed=0) == samples(task)[:2]
    assert make(trials=1, seed=1) != samples(task)[:1]
    assert len({tuple(sample.answers) for sample in samples(task)}) == 3


@pytest.mark.parametrize("task", TASKS)
def test_a_sample_has_the_length_asked_for(task: str) -> None:
    for sample in samples(task) + sharing(task):
        assert TOKENS * 0.92 < sample.tokens <= TOKENS
        assert len(sample.local) == LOCAL


@pytest.mark.parametrize("task", TASKS)
def test_the_answers_are_in_the_text_and_in_the_evidence(task: str) -> None:
    for sample in samples(task) + sharing(task):
        for answer in sample.answers:
            assert answer in told(sample)
            assert answer in known(sample)
            assert answer not in re.findall(r"[\w-]+", asked(sample))
        assert len(sample.evidence) < TOKENS / 2


@pytest.mark.parametrize("task", TASKS)
def test_too_few_tokens(task: str) -> None:
    with pytest.raises(fotmem.errors.InputError, match=f"^{task}: .*take more"):
        make_samples(source(), task, tokens=150, trials=1, seed=0)


def test_a_text_that_is_too_short() -> None:
    short = Source(TOKENIZER, TEXT[:2000])
    with pytest.raises(fotmem.errors.InputError, match="are needed: add text"):
        make_samples(short, "niah_single_2", tokens=TOKENS, trials=1, seed=0)
    assert make_samples(short, "niah_single_1", tokens=TOKENS, trials=1, seed=0)


def test_words_that_do_not_exist_are_not_looked_for() -> None:
    with pytest.raises(InputError, match=r"at most 14,430 different words in one text, got 14,431"):
        words.several("words", 14_430, Random(0), ["an-apple"])
    assert len({*words.several("words", 14_000, Random(0))}) == 14_000


def test_new_tokens_are_those_of_the_paper() -> None:
    wanted = dict.fromkeys(NEEDLES, 128) | {"vt": 30, "cwe": 120, "fwe": 50, "qa": 32}
    assert {task: samples(task)[0].new_tokens for task in TASKS} == wanted


def test_one_answer_suffices_for_passages_alone() -> None:
    assert [task for task in TASKS if samples(task)[0].one_suffices] == ["qa"]


# Samples that share a text


@pytest.mark.parametrize("task", TASKS)
def test_samples_share_what_is_read(task: str) -> None:
    """Each hides its own in it, or asks for another part of it; lists of words are not shared."""
    some, apart = sharing(task, 8000), 3 if task in ("cwe", "fwe") else 1
    assert len({id(sample.read) for sample in some}) == apart
    assert len({tuple(sample.answers) for sample in some}) == 3
    for sample in some:
        hidden = [answer in TOKENIZER.decode(sample.read) for answer in sample.answers]
        assert not any(hidden) if sample.edits else all(hidden)
        others = {answer for other in some if other is not sample for answer in other.answers}
        if sample.edits:
            assert not any(answer in told(sample) for answer in others)


@pytest.mark.parametrize("task", ["niah_single_2", "niah_multikey_2", "vt"])
def test_as_many_texts_as_are_read(task: str) -> None:
    some = sharing(task, readings=2)
    assert [each.read is some[-1].read for each in some] == [False, True, True]
    assert sharing(task, readings=9) == sharing(task, readings=3) == samples(task)


def test_passages_that_do_not_all_fit_are_told_apart() -> None:
    assert sharing("qa") == samples("qa")


def test_passages_are_told_apart_for_more_samples_than_there_are_people(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(passages, "MOST", 2)
    draws = [Random(f"qa 8000 0 {trial}") for trial in range(3)]
    assert passages.answer_from_passages(source(), 8000, draws, 64) == samples("qa", tokens=8000)


# Needles

NUMBER, UUID, WORD = (
    r"\d{7}",
    r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}",
    (r"[a-z]+-[a-z]+"),
)
DEFINED = {
    "niah_single_1": (WORD, NUMBER, 1, 1),
    "niah_single_2": (WORD, NUMBER, 1, 1),
    "niah_single_3": (WORD, UUID, 1, 1),
    "niah_multikey_1": (WORD, NUMBER, 4, 1),
    "niah_multikey_2": (WORD, NUMBER, None, 1),
    "niah_multikey_3": (UUID, UUID, None, 1),
    "niah_multivalue": (WORD, NUMBER, 4, 4),
    "niah_multiquery": (WORD, NUMBER, 4, 4),
}
"""Key, value, number of needles (None: many), number of answers."""


@pytest.mark.parametrize("task", DEFINED)
def test_needles_by_definition(task: str) -> None:
    key, value, hidden, answers = DEFINED[task]
    for sample in samples(task) + sharing(task):
        found = re.findall(rf"A magic (?:number|uuid) of ({key}) is ({value})\.", told(sample))
        assert len(found) == hidden if hidden else len(found) > 20
        right = [each for each in found if each[0] in asked(sample)]
        assert sorted(each for _, each in right) == sorted(sample.answers)
        assert len(sample.answers) == answers
        keys = {each for each, _ in right}
        assert len(keys) == (4 if task == "niah_multiquery" else 1)
        shown = re.findall(rf"of ({key}) is ({value})\.", known(sample))
        assert set(right) <= set(shown) <= set(found)
        assert len(shown) == (4 if "multi" in task else 1)


@pytest.mark.parametrize("task", [task for task in NEEDLES if NEEDLES[task].haystack == "text"])
def test_needles_lie_between_the_sentences_of_one_piece_of_the_text(task: str) -> None:
    for sample in samples(task) + sharing(task):
        filler, count = re.subn(r" A magic \w+ of \S+ is \S+\.(?=\s|$)", "", told(sample))
        piece = filler.partition("\n")[2]
        assert piece in TEXT
        before = re.findall(r"(\S+|\n)(?= A magic)", told(sample))
        assert len(before) == count
        assert all(each[-1] in ".!?\"')\n" for each in before)


def test_noise_is_the_same_sentences_again_and_again() -> None:
    for sample in samples("niah_single_1") + sharing("niah_single_1"):
        rest = told(sample).partition("\n")[2].replace(NOISE, "")
        assert re.fullmatch(r"\nA magic number of \S+ is \d+\.", rest)


def test_needles_lie_at_every_depth_but_not_in_the_local_text() -> None:
    shares = []
    for sample in samples("niah_single_1", trials=60):
        text = told(sample)
        shares.append(text.index("A magic") / text.rindex("The river"))
        assert not re.search(r"\d", str(TOKENIZER.decode(sample.local)))
    assert min(shares) < 0.1
    assert 0.4 < sum(shares) / len(shares) < 0.6
    assert max(shares) > 0.9


def test_a_text_without_sentences() -> None:
    flat = Source(TOKENIZER, " ".join(re.findall("[a-z]+", TEXT)))
    [sample] = make_samples(flat, "niah_multivalue", tokens=TOKENS, trials=1, seed=0)
    assert sample.tokens == TOKENS
    assert all(answer in told(sample) for answer in sample.answers)


def test_needles_stand_between_the_lines_of_a_log() -> None:
    lines = [
        f"job {number} on node {number % 7} took {number % 13} seconds" for number in range(999)
    ]
    log = "\n".join(lines)
    haystack = Source(TOKENIZER, f"A log.\n\n{log}\nThe end.").piece(TOKENS, 4, Random(1))
    places = haystack.places
    gaps = [TOKENIZER.decode(haystack.tokens[a:b]) for a, b in pairwise(places)]
    assert len(gaps) > 6
    assert all(gap.startswith("job") and gap.endswith("\n") for gap in gaps)
    assert all(len(gap) <= haystacks.LONG + 2 * max(map(len, lines)) for gap in gaps)


def test_pieces_are_of_all_parts_of_a_text_alike() -> None:
    """Half of it has ten times as many sentences."""
    prose, log = "Lamps are old. " * 800, "lamps are old and dark and " * 450
    mixed = Source(TOKENIZER, f"{prose}\n\n{log.replace(' dark and', chr(10) + 'dark and')}")
    pieces = [mixed.piece(200, 1, Random(seed)).tokens for seed in range(60)]
    assert 15 <= sum("." not in TOKENIZER.decode(piece) for piece in pieces) <= 45


def test_needles_in_the_haystack_have_other_keys() -> None:
    """The key that is asked for would come up by chance: there are few keys here."""
    few = needles.NeedleTask("needles")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "ADJECTIVES", "brave")
        patch.setattr(words, "NOUNS", "otter lamp hill")
        [sample] = few(source(), TOKENS, [Random(0)], 64)
    [key] = re.findall(r"number of (\S+) in", asked(sample))
    assert told(sample).count(f"of {key} is") == 1
    assert told(sample).count("of brave-") > 20


# Variables


def test_variables_by_definition() -> None:
    for sample in samples("vt") + sharing("vt"):
        found = re.findall(r"VAR ([A-Z]{5}) = (?:VAR )?(\w{5})", told(sample))
        assert [name for name, _ in found] == sample.answers
        assert re.fullmatch(r"\d{5}", found[0][1])
        assert all(value == before for (before, _), (_, value) in pairwise(found))
        assert len(set(sample.answers)) == 5
        assert asked(sample).endswith(f"variables have the value {found[0][1]}:")


def test_the_example_of_variables_is_answered() -> None:
    for sample in samples("vt"):
        shown = re.findall(r"VAR ([A-Z]{3}) =", asked(sample))
        assert len(shown) == 5
        assert f": {', '.join(shown)}\n" in asked(sample)


# Words


@pytest.mark.parametrize(("tokens", "repeated"), [(3000, (6, 1)), (8192, (30, 3))])
def test_common_words_by_definition(tokens: int, repeated: tuple[int, int]) -> None:
    [sample] = samples("cwe", 1, tokens)
    entries = re.findall(r"(\d+)\. (\w+)", told(sample))
    assert [int(number) for number, _ in entries] == list(range(1, len(entries) + 1))
    counts = Counter(word for _, word in entries)
    assert {word for word, n in counts.items() if n == repeated[0]} == set(sample.answers)
    assert set(counts.values()) == set(repeated)
    assert len(sample.answers) == 10
    assert set(counts) <= set(source().words)
    assert not {word for _, word in re.findall(r"(\d+)\. (\w+)", asked(sample))} & set(counts)


def test_the_example_of_common_words_is_answered() -> None:
    [sample] = samples("cwe", 1)
    shown, answered = asked(sample).split(lists.COMMON_QUESTION)[:2]
    counts = Counter(re.findall(r"\d+\. (\w+)", shown))
    common = {word for word, n in counts.items() if n == 3}
    assert set(re.findall(r"\d+\. (\w+)", answered)) == common
    assert len(counts) == 20


def test_coded_words_follow_where_the_text_has_no_more_words() -> None:
    few = Source(TOKENIZER, "seven words that occur just once here")
    [sample] = make_samples(few, "cwe", tokens=TOKENS, trials=1, seed=0)
    every = re.findall(r"\d+\. (\w+)", told(sample) + asked(sample))
    assert {word for word in every if len(word) != 6} <= set(few.words)
    assert len(set(every)) > 30


def test_frequent_words_by_definition() -> None:
    for sample in samples("fwe"):
        counts = Counter(told(sample).partition("\n")[2].split())
        (dots, most), *others = counts.most_common(5)
        assert dots == "..."
        assert [word for word, _ in others[:3]] == sample.answers
        for rank, (_, n) in enumerate(others, 2):
            assert abs(n - most / rank**2) <= 1
        shown = Counter(known(sample).partition("\n")[2].split())
        assert [word for word, _ in shown.most_common(4)] == ["...", *sample.answers]
        assert len({n for _, n in shown.most_common(5)}) == 5


# Passages


def test_passages_by_definition() -> None:
    kinds = set()
    for sample in samples("qa", trials=20) + sharing("qa", 8000):
        passage = "\n" + known(sample).partition("\n")[2]
        name, rest = passage.strip().split("\n")
        assert rest.startswith(f"{name} lived in")
        names = re.findall(r"\n(\w+ \w+)\n", told(sample))
        assert names.count(name) == 1
        assert names[-1] != name
        first, last = name.split()
        assert sum(each.startswith(f"{first} ") for each in names) > passages.ALIKE
        assert sum(each.endswith(f" {last}") for each in names) > passages.ALIKE
        kinds.add(asked(sample).partition("Question: ")[2].split()[0])
    assert kinds == {"Who", "Where", "What", "In", "How"}


def test_samples_that_share_a_text_ask_for_different_keys_and_people() -> None:
    """They would come up twice by chance: there are few keys, and few shops."""
    few = needles.NeedleTask("needles")
    draws = [Random(number) for number in range(4)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "ADJECTIVES", "brave")
        patch.setattr(words, "NOUNS", "otter lamp hill moon star")
        patch.setattr(people, "TOWNS", "Basel Turin")
        patch.setattr(people, "TRADES", "book cheese")
        some = few(source(), TOKENS, draws, 64)
        told_of = passages.answer_from_passages(source(), 12_000, draws[:3], 64)
    for sample in some:
        [key] = re.findall(r"number of (\S+) in", asked(sample))
        assert told(sample).count(f"of {key} is {sample.answers[0]}") == 1
        assert told(sample).count(f"of {key} is") == 1
    assert len({id(sample.read) for sample in told_of}) == 1
    shop = r"lived in (\w+)\. There \w+ opened a (\w+) shop"
    shops = [re.findall(shop, known(sample))[0] for sample in told_of]
    every = re.findall(shop, told(told_of[0]))
    assert [every.count(each) for each in shops] == [1, 1, 1]


def test_each_question_has_one_answer() -> None:
    """Other people with the same shop in the same town would come up by chance: there are few."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(people, "TOWNS", "Basel Turin")
        patch.setattr(people, "TRADES", "book cheese")
        texts = make_samples(source(), "qa", tokens=TOKENS, trials=6, seed=0)
    for sample in texts:
        told_of = re.compile(r"(\w+ \w+) lived in (\w+)\. There \w+ opened a (\w+) shop")
        [(_, *shop)] = told_of.findall(known(sample))
        assert [found[1:] for found in told_of.findall(told(sample))].count(tuple(shop)) == 1


def test_answers_about_a_person() -> None:
    person = people.Person("Ida", "Hale", "Basel", "book", "1801", "coins", "2345")
    answers = [answer for _, answer in person.questions()]
    assert answers == ["Ida Hale", "Basel", "book", "1801", "2345"]
    assert all(answer in person.tell() for answer in answers)
    assert not any(answer in question for question, answer in person.questions())


# Rows


def three(without: list[float], with_memory: list[float], within: list[float]) -> ThreeAnswers:
    return ThreeAnswers(*(Answers(scores=each) for each in (without, with_memory, within)))


def test_rows() -> None:
    row = make_row("vt", 4096, "exact", three([0, 0], [0.4, 0.6], [1, 0.6]))
    assert (row.without_memory, row.with_memory, row.in_window) == (0, 0.5, 0.8)
    assert row.share == 0.5 / 0.8
    assert row.apart == pytest.approx(0.3)
    assert row.share_interval == pytest.approx(ratio_interval(1.0, 1.6, 0.6))
    assert row.with_memory_interval == wilson(1, 2)
    assert make_row("vt", 4096, "exact", three([0], [1], [0])).share is None


def test_the_mean_of_needles() -> None:
    def row(task: str, score: float) -> Any:
        return make_row(task, 4096, "exact", three([0, 0], [score] * 2, [1, 1]))

    rows = [row(task, number / 8) for number, task in enumerate(NEEDLES)]
    [mean] = mean_of_needles([*rows, row("vt", 1)])
    assert (mean.task, mean.tokens, mean.trials) == ("needles", 4096, 16)
    assert mean.with_memory == mean.share == sum(range(8)) / 64
    assert mean.with_memory_interval == wilson(16 * mean.with_memory, 16)
    assert mean.apart == 1 - mean.with_memory
    assert mean_of_needles(rows[1:]) == []


# The command line


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    folder = folders.write(tmp_path_factory.mktemp("model"))
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    return ["eval", "ruler", folder, "--text", folder / "text.txt", "--window", 64]


def test_table_json_and_report(
    given: list[object],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(passages, "NEW_TOKENS", 3)
    monkeypatch.setattr(lists, "FREQUENT_TOKENS", 3)
    chosen = [*given, "--tasks", "qa,fwe", "--tokens", "700,800", "--trials", 1]
    table = call(capsys, *chosen)
    assert table.code == 0, table.err
    assert "\nshare: " in table.out
    assert re.search(r"│ fwe +│ 800 +│ 0.\d\d +│ 0.\d\d \(0.00 to 0.\d\d\) │", table.out)
    file = tmp_path / "report.json"
    rows = json.loads(call(capsys, *chosen, "--json", "--report", file).out)["rows"]
    assert [(row["task"], row["tokens"]) for row in rows] == [
        ("qa", 700),
        ("fwe", 700),
        ("qa", 800),
        ("fwe", 800),
    ]
    report = json.loads(file.read_text())
    assert (report["task"], report["options"]["trials"], report["rows"]) == ("ruler", 1, rows)


def test_lines_fit_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a text of 100k tokens."""
    monkeypatch.setenv("COLUMNS", "80")
    _show([make_row(task, 102_400, "exact", three([0.0], [0.5], [1.0])) for task in TASKS])
    out = capsys.readouterr().out
    line = r" +│ 102,400 │ 0\.00 +│ 0\.50 \(0\.\d\d to 0\.\d\d\) │ 1\.00 +│ 0\.50 +│"
    assert all(re.search(rf"│ {task}{line}", out) for task in TASKS)


def test_what_is_refused(given: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, 2, *given, "--tasks", "vt,niah")
    assert "'--tasks': expected all, or some of niah_single_1, " in line
    assert "; got 'niah'" in line
    assert "are needed: add text" in refusal(capsys, 1, *given, "--tokens", "1M")
