"""Compares settings of stores, which all answer the same questions about the same reading."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

from fotmem.measure.evaluate.alternatives.run import Answers
from fotmem.measure.evaluate.compare_settings import Reading, SettingComparison, SettingRun
from fotmem.measure.evaluate.report import TaskReport
from fotmem.measure.evaluate.ruler.rows import RulerRow, make_row
from fotmem.measure.evaluate.ruler.sample import Sample
from fotmem.measure.evaluate.text_edits import put
from fotmem.measure.evaluate.window_share import ThreeAnswers
from fotmem.measure.reading import remember
from fotmem.models.tokens import token_ids
from fotmem.tasks.answer import answer_question, first_choices
from fotmem.tasks.asking import rereading

if TYPE_CHECKING:
    from fotmem.measure.setting import Setting
    from fotmem.memory.memory import Memory


def compare(
    model: Any,
    tokenizer: Any,
    samples: Sequence[Sample],
    memory: Memory,
    settings: Sequence[Setting],
    measured: TaskReport[RulerRow],
    *,
    task: str,
    tokens: int,
    without_memory: Answers,
    in_window: Answers,
    passages: int = 0,
    attend: bool = False,
) -> Iterator[int]:
    """Ask several settings of stores the questions of a task; yields as `SettingComparison.run`.

    `measured` receives a row for each setting, or its failure. Figures of the stores are those for
    the queries of a question with its right answers. The other answers are the same for all.
    """

    def session(same: Sequence[Sample]) -> Iterator[Callable[[], float]]:
        put(memory, same[0].edits, attend=attend)
        for sample in same:
            yield partial(_ask, model, tokenizer, sample, memory, passages)

    def row(run: SettingRun[float]) -> RulerRow:
        with_memory = Answers(scores=run.results, seconds=run.seconds)
        answers = ThreeAnswers(without_memory, with_memory, in_window)
        return make_row(task, tokens, run.setting.store, answers)

    readings = []
    for _, group in groupby(samples, key=lambda sample: id(sample.read)):
        some = [*group]
        read = partial(_read, memory, some[0].read, attend=attend)
        texts = groupby(some, key=lambda sample: sample.edits)
        readings.append(Reading(read, [partial(session, [*same]) for _, same in texts]))
    comparison: SettingComparison[float] = SettingComparison(memory, settings, attend=attend)
    return comparison.run(readings, partial(measured.keep, tokens=tokens, row=row, task=task))


def _read(memory: Memory, text: list[int], *, attend: bool) -> None:
    memory.clear()
    remember(memory, text, attend=attend)


def _ask(model: Any, tokenizer: Any, sample: Sample, memory: Memory, passages: int) -> float:
    with rereading(
        memory, sample.local, sample.question, passages=passages, max_new_tokens=sample.new_tokens
    ) as prompt:
        given = answer_question(
            model, tokenizer, prompt, max_new_tokens=sample.new_tokens, until=sample.is_complete
        )
    right = token_ids(tokenizer, f" {', '.join(sample.answers)}")
    # The last call: its queries are evaluated.
    first_choices(model, [*sample.local, *sample.question], right)
    return sample.score(given.text)
