"""Pass keys among statements that look like the right one."""

import json
import random
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fotmem
from fotmem.measure.evaluate import passkey
from fotmem.measure.evaluate.passkey import PasskeyAnswer, measure_passkey
from fotmem.measure.evaluate.passkey_trials import Trial, make_trials
from fotmem.models.tokens import token_ids
from fotmem.tasks.distractors import Distractor, make_distractors, similar_code
from fotmem.tasks.pass_key import NAME, fact
from tests import folders
from tests.commands import call
from tests.tiny import one_thread  # noqa: F401 - a fixture

TEXT = folders.PROSE[:3000]
TOKENIZER = folders.tokenizer("digits")


def places(part: list[int], text: list[int]) -> list[int]:
    return [i for i in range(len(text) - len(part) + 1) if text[i : i + len(part)] == part]


def differing_digits(code: str, other: str) -> int:
    return sum(one != two for one, two in zip(code, other, strict=True))


def test_distractors_are_other_keys_with_other_names_and_numbers() -> None:
    made = make_distractors(1000, random.Random(0))
    keys, people = zip(*(each.name.split(" of ") for each in made), strict=True)
    assert len(set(people)) == len({each.code for each in made}) == 1000
    assert all(10_000 <= int(each.code) <= 99_999 for each in made)
    assert [key.endswith(f" {NAME}") for key in keys] == [False, True] * 500
    assert (
        make_distractors(1000, random.Random(0)) == made != make_distractors(1000, random.Random(1))
    )


def test_a_similar_number_differs_in_one_or_two_digits() -> None:
    made = [Distractor("a", "48213"), Distractor("b", "48214"), Distractor("c", "10000")]
    draw, nearest = random.Random(0), set()
    for _ in range(500):
        code = similar_code(made, draw)
        nearest.add(min(differing_digits(code, each.code) for each in made))
        assert 10_000 <= int(code) <= 99_999
    assert nearest == {1, 2}


def stated(trial: Trial) -> list[list[int]]:
    return [token_ids(TOKENIZER, fact(*each)) for each in trial.distractors]


@pytest.mark.parametrize("readings", [None, 2])
def test_each_trial_states_every_distractor_and_the_number_once(readings: int | None) -> None:
    trials = make_trials(
        TOKENIZER, TEXT, tokens=500, trials=12, seed=3, window=60, readings=readings, distractors=5
    )
    every, depths = token_ids(TOKENIZER, TEXT), []
    for trial in trials:
        start, stop = trial.replaced.start, trial.replaced.stop
        text = trial.shared[:start] + trial.read + trial.shared[stop:]
        hidden = token_ids(TOKENIZER, fact(NAME, trial.code))
        assert trial.code not in {each.code for each in trial.distractors}
        assert min(differing_digits(trial.code, each.code) for each in trial.distractors) <= 2
        depths.append(places(hidden, text)[0] / len(text))
        for part in (hidden, *stated(trial)):
            [place] = places(part, text)  # once, and whole
            text = text[:place] + text[place + len(part) :]
        assert places(text, every)  # the rest is one piece of the text
        assert places(trial.local, every)
        assert trial.tokens == 500
    assert min(depths) < 0.3
    assert max(depths) > 0.7


def test_trials_that_share_a_piece_share_its_distractors() -> None:
    trials = make_trials(
        TOKENIZER, TEXT, tokens=400, trials=6, seed=0, window=60, readings=2, distractors=4
    )
    assert [len([*some]) for _, some in groupby(trials, lambda one: one.distractors)] == [3, 3]
    assert [len([*some]) for _, some in groupby(trials, lambda one: one.shared)] == [3, 3]
    for trial in trials:
        assert all(places(part, trial.shared) for part in stated(trial))
        assert not places(token_ids(TOKENIZER, fact(NAME, trial.code)), trial.shared)


def test_the_seed_decides_and_more_trials_begin_with_the_same() -> None:
    def make(trials: int, seed: int) -> list[Trial]:
        return make_trials(TOKENIZER, TEXT, tokens=300, trials=trials, seed=seed, distractors=3)

    assert make(5, 1)[:2] == make(2, 1)
    assert {each.name for each in make(1, 1)[0].distractors} != {
        each.name for each in make(1, 2)[0].distractors
    }


def test_no_room_for_the_distractors() -> None:
    with pytest.raises(fotmem.errors.InputError, match=r"\(fact, distractors, local text\)"):
        make_trials(TOKENIZER, TEXT, tokens=150, trials=1, seed=0, distractors=9)


def test_rows_name_the_distractors_that_were_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    others = [Distractor("gate code of Nora Berg", "11111"), Distractor("badge of Jo", "22222")]
    trials = [Trial([], [], "12345", distractors=others)] * 5
    given = iter(["12345", "22222", "11111", "22222", "33333"])

    def answer(*arguments: Any, **options: Any) -> SimpleNamespace:
        return SimpleNamespace(text=next(given), step_seconds=[])

    monkeypatch.setattr(passkey, "answer_question", answer)
    monkeypatch.setattr(passkey, "first_choices", lambda model, prompt, code: [True] * len(code))
    *_, row = measure_passkey(None, TOKENIZER, trials, None, None)
    assert (row.exact_match, row.distracted) == (0.2, 0.6)
    assert row.distractors == {"badge of Jo": 2, "gate code of Nora Berg": 1}
    assert row.distracted_interval == pytest.approx((0.23, 0.88), abs=0.01)
    assert [*row.distractors] == ["badge of Jo", "gate code of Nora Berg"]


@pytest.mark.parametrize("distractors", [0, 2])
def test_the_command_shows_their_share(
    distractors: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def score(model: Any, tokenizer: Any, trial: Trial, memory: Any, **_: Any) -> PasskeyAnswer:
        assert len(trial.distractors) == distractors
        return PasskeyAnswer(0.0, False, [], "badge of Jo" if memory and distractors else "")

    monkeypatch.setattr("fotmem.measure.evaluate.passkey.score", score)
    folder = folders.write(tmp_path)
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    given: list[object] = ["eval", "passkey", folder, "--text", folder / "text.txt"]
    given += ["--tokens", 300, "--trials", 1, "--window", 32, "--distractors", distractors]
    table = call(capsys, *given).out
    assert ("distracted: share of trials" in table) == (distractors > 0)
    assert ("│ 1.00 " in table) == (distractors > 0)
    row = json.loads(call(capsys, *given, "--json").out)["rows"][1]
    assert row["distractors"] == ({"badge of Jo": 1} if distractors else {})
