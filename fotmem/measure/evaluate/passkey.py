"""The pass key evaluation: a number is hidden in a long text and asked for at the end.

Mohtashami and Jaggi 2023 (arXiv:2305.16300), as used by the Focused Transformer paper.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from fotmem.measure.evaluate.compare_settings import Reading, SettingComparison, SettingRun
from fotmem.measure.evaluate.intervals import wilson
from fotmem.measure.evaluate.passkey_trials import Trial
from fotmem.measure.evaluate.report import StoreRow, TaskReport
from fotmem.measure.evaluate.text_edits import put
from fotmem.measure.reading import remember
from fotmem.tasks.answer import answer_question, first_choices
from fotmem.tasks.asking import rereading
from fotmem.tasks.pass_key import NAME, question, split_answer

if TYPE_CHECKING:
    from fotmem.measure.setting import Setting
    from fotmem.memory.memory import Memory


class PasskeyAnswer(NamedTuple):
    """The result of one question."""

    digits: float
    """Share of correct digits."""
    exact: bool
    """Whether the generated answer is an exact match."""
    step_seconds: list[float]
    """Seconds of each token of the answer after the first."""
    distractor: str = ""
    """The distractor whose number the answer is; empty if it is none's."""


@dataclass(frozen=True)
class PasskeyRow(StoreRow):
    """The results of all trials, with or without memory."""

    memory: bool
    digit_accuracy: float
    """Share of digits that are the likeliest token, given the true digits before them."""
    exact_match: float
    """Share of trials in which greedy generation gives all digits."""
    exact_match_interval: tuple[float, float]
    """95% interval of `exact_match` (Wilson)."""
    trials: int
    seconds: float
    """With reading, unless settings were compared: their text is read once for all of them."""
    seconds_per_token: float | None = None
    """Decoding: median over the tokens of all answers, without the first token of each; None if
    no answer has a second token."""
    distracted: float = 0.0
    """Share of trials in which greedy generation gives the number of a distractor."""
    distracted_interval: tuple[float, float] = (0.0, 1.0)
    """95% interval of `distracted` (Wilson)."""
    distractors: dict[str, int] = field(default_factory=dict)
    """How often the number of each distractor was given, the most frequent first."""


def score(
    model: Any,
    tokenizer: Any,
    trial: Trial,
    memory: Memory | None,
    *,
    passages: int = 0,
    attend: bool = False,
) -> PasskeyAnswer:
    """Ask for the number; with a memory, perhaps with passages that are read again."""
    ask = partial(_ask, model, tokenizer, trial, memory, passages)
    if memory is None:
        return ask()
    if not trial.shared:
        memory.clear()
        remember(memory, trial.read, attend=attend)
        return ask()
    with memory.temporarily():
        put(memory, trial.edits, attend=attend)
        return ask()


def measure_passkey(
    model: Any,
    tokenizer: Any,
    trials: list[Trial],
    memory: Memory | None,
    store: str | None,
    *,
    passages: int = 0,
    attend: bool = False,
) -> Iterator[PasskeyRow]:
    """Measure trial by trial; each row covers the trials so far.

    `passages` says how many are read again for a question, and `attend` whether windows attend to
    memory while they are read.
    """
    answers: list[PasskeyAnswer] = []
    held: list[int] | None = None
    begin = time.perf_counter()
    for trial in trials:
        if memory is not None and trial.shared and trial.shared is not held:
            held = trial.shared
            _hold(memory, held, attend=attend)
        how: dict[str, Any] = {"passages": passages, "attend": attend}
        answers.append(score(model, tokenizer, trial, memory, **how))
        yield _row(trials[0].tokens, answers, store=store, seconds=time.perf_counter() - begin)


def compare(
    model: Any,
    tokenizer: Any,
    trials: list[Trial],
    memory: Memory,
    settings: Sequence[Setting],
    measured: TaskReport[PasskeyRow],
    *,
    passages: int = 0,
    attend: bool = False,
) -> Iterator[int]:
    """Ask several settings of stores for the same numbers; yields as `SettingComparison.run`.

    `measured` receives a row for each setting, or its failure.
    """
    tokens = trials[0].tokens

    def session(trial: Trial) -> Iterator[Callable[[], PasskeyAnswer]]:
        put(memory, trial.edits, attend=attend)
        yield partial(ask, trial)

    def ask(trial: Trial) -> PasskeyAnswer:
        answer = _ask(model, tokenizer, trial, memory, passages)
        asked, code = split_answer(tokenizer, question(NAME), trial.code)
        first_choices(model, trial.local + asked, code)  # the last call: its queries are evaluated
        return answer

    def row(run: SettingRun[PasskeyAnswer]) -> PasskeyRow:
        return _row(tokens, run.results, store=run.setting.store, seconds=run.seconds)

    readings = [
        Reading(
            partial(_hold, memory, text, attend=attend), [partial(session, one) for one in some]
        )
        for text, some in groupby(trials, key=lambda trial: trial.shared or trial.read)
    ]
    comparison: SettingComparison[PasskeyAnswer] = SettingComparison(
        memory, settings, attend=attend
    )
    return comparison.run(readings, partial(measured.keep, tokens=tokens, row=row))


def _row(
    tokens: int, answers: Sequence[PasskeyAnswer], *, store: str | None, seconds: float
) -> PasskeyRow:
    exact = sum(each.exact for each in answers)
    steps = [seconds for each in answers for seconds in each.step_seconds]
    named = Counter(each.distractor for each in answers if each.distractor)
    return PasskeyRow(
        tokens=tokens,
        memory=store is not None,
        store=store,
        digit_accuracy=sum(each.digits for each in answers) / len(answers),
        exact_match=exact / len(answers),
        exact_match_interval=wilson(exact, len(answers)),
        trials=len(answers),
        seconds=seconds,
        seconds_per_token=median(steps) if steps else None,
        distracted=named.total() / len(answers),
        distracted_interval=wilson(named.total(), len(answers)),
        distractors=dict(named.most_common()),
    )


def _hold(memory: Memory, text: list[int], *, attend: bool) -> None:
    """Read a text into memory; a beginning that is there already is not read again."""
    known = memory.tokens.tolist()
    if known != text[: len(known)]:
        memory.clear()
        known = []
    remember(memory, text[len(known) :], attend=attend)


def _ask(
    model: Any, tokenizer: Any, trial: Trial, memory: Memory | None, passages: int
) -> PasskeyAnswer:
    asked, code = split_answer(tokenizer, question(NAME), trial.code)
    digits = [sum(map(str.isdigit, tokenizer.decode([token]))) for token in code]
    with rereading(
        memory, trial.local, asked, passages=passages, max_new_tokens=len(code)
    ) as prompt:
        given = answer_question(model, tokenizer, prompt, max_new_tokens=len(code))
        choices = first_choices(model, prompt, code)
    right = sum(count for count, choice in zip(digits, choices, strict=True) if choice)
    named = {other.code: other.name for other in trial.distractors}
    return PasskeyAnswer(
        right / sum(digits),
        given.text == trial.code,
        given.step_seconds,
        named.get(given.text, ""),
    )
