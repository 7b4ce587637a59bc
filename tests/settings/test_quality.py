"""Settings side by side: the quality of the model is that with each of them alone."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import fotmem
from fotmem import Memory
from fotmem.measure.evaluate import dictionary, perplexity
from fotmem.measure.evaluate import passkey as evaluated
from fotmem.measure.evaluate.alternatives import local_text
from fotmem.measure.evaluate.alternatives.asked_texts import of_samples
from fotmem.measure.evaluate.alternatives.attached_memory import AttachedMemory
from fotmem.measure.evaluate.alternatives.run import Answers, ask_all
from fotmem.measure.evaluate.dictionary import DictionaryRow
from fotmem.measure.evaluate.passkey import PasskeyAnswer
from fotmem.measure.evaluate.passkey_trials import Trial, make_trials
from fotmem.measure.evaluate.perplexity import PerplexityRow
from fotmem.measure.evaluate.report import TaskReport
from fotmem.measure.evaluate.ruler import compare as comparing
from fotmem.measure.evaluate.ruler import needles, sample
from fotmem.measure.evaluate.ruler.haystacks import Source
from fotmem.measure.evaluate.ruler.rows import RulerRow
from fotmem.measure.evaluate.ruler.tasks import make_samples
from fotmem.measure.evaluate.scored_text import ScoredText
from fotmem.measure.grid import settings
from fotmem.tasks.answer import Answer
from fotmem.training.dictionary_model import new_model
from tests import folders
from tests.settings.sparse import GRID, TEXT, TOP_K, passkeys
from tests.tiny import contents, one_thread  # noqa: F401 - a fixture


@pytest.mark.parametrize(
    ("attend", "readings"), [(False, None), (False, 2), (True, None), (True, 1)]
)
def test_pass_keys_with_settings_are_those_with_each_of_them(
    attend: bool, readings: int | None, built: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the model says at the end, instead of whether that is right, which it never is."""

    def said(model: Any, tokenizer: Any, trial: Trial, *how: Any) -> PasskeyAnswer:
        return PasskeyAnswer(
            float(model(torch.tensor([trial.local])).logits[0, -1].max()), True, []
        )

    monkeypatch.setattr(evaluated, "_ask", said)
    every = settings(["exact", "sparse"], {"sparse": {"every": [1, 5]}})
    measured, _ = passkeys(every, readings=readings, attend=attend)
    model, tokenizer = folders.model(), folders.tokenizer()
    trials = make_trials(
        tokenizer, TEXT, tokens=200, trials=4, seed=0, window=64, readings=readings
    )
    for row, setting in zip(measured.rows, every, strict=True):
        options = {"store": setting.store, **setting.options}
        with fotmem.attach(model, window=64, top_k=TOP_K, **options) as memory:
            *_, alone = evaluated.measure_passkey(
                model, tokenizer, trials, memory, setting.store, attend=attend
            )
        assert row.digit_accuracy == pytest.approx(alone.digit_accuracy, abs=1e-5)
        assert (row.trials, row.tokens, row.options) == (4, 200, setting.options)
    exact, _, fifth = measured.rows
    assert exact.digit_accuracy != pytest.approx(fifth.digit_accuracy, abs=1e-3)


@pytest.mark.parametrize(
    ("task", "attend", "readings", "passages"),
    [
        ("niah_multikey_1", False, None, 0),
        ("niah_multikey_1", False, 1, 0),
        ("niah_multikey_1", True, 1, 0),
        ("niah_multikey_2", False, 1, 0),
        ("niah_multikey_2", False, 1, 2),
    ],
)
def test_ruler_with_settings_is_that_with_each_of_them(
    task: str,
    attend: bool,
    readings: int | None,
    passages: int,
    built: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the model says next, instead of whether that is right, which it never is."""

    def said(model: Any, tokenizer: Any, prompt: list[int], **options: Any) -> Answer:
        best = model(torch.tensor([prompt])).logits[0, -1].max()
        return Answer(f"{best / 10:.9f}", [])

    for module in (comparing, local_text):
        monkeypatch.setattr(module, "answer_question", said)
    monkeypatch.setattr(sample, "match", lambda said, answers, one_suffices: float(said))
    monkeypatch.setattr(needles, "NEW_TOKENS", 2)  # passages have room
    model, tokenizer = folders.model(), folders.tokenizer()
    samples = make_samples(
        *(Source(tokenizer, TEXT), task), tokens=900, trials=2, seed=0, readings=readings, window=64
    )
    every = settings(["exact", "sparse"], {"sparse": {"every": [5]}})
    measured, none = TaskReport("ruler", {}, RulerRow, None), Answers(scores=[0.0, 0.0])
    with fotmem.attach(model, window=64, top_k=TOP_K) as memory:
        how: dict[str, Any] = {"task": task, "tokens": 900, "attend": attend, "passages": passages}
        how |= {"without_memory": none, "in_window": none}
        asked = (model, tokenizer, samples, memory, every, measured)
        sessions = sum(comparing.compare(*asked, **how))
        assert sessions == 2 * len(of_samples(samples))
    for row, setting in zip(measured.rows, every, strict=True):
        store: Any = {"store": setting.store, **setting.options}
        with fotmem.attach(model, window=64, top_k=TOP_K, **store) as memory:
            way = AttachedMemory(model, tokenizer, memory, attend=attend, passages=passages)
            *_, alone = ask_all(way, of_samples(samples))
        assert row.with_memory == pytest.approx(sum(alone.scores) / 2, abs=1e-6)
        assert (row.task, row.trials, row.options) == (task, 2, setting.options)
        assert row.store_quality is not None
    exact, fifth = measured.rows
    assert exact.with_memory != pytest.approx(fifth.with_memory, abs=1e-4)


@pytest.mark.parametrize("attend", [False, True])
def test_perplexity_with_settings_is_that_with_each_of_them(attend: bool, built: list[int]) -> None:
    model = folders.model()
    ids = folders.tokenizer()(TEXT[:3000], add_special_tokens=False).input_ids
    text = ScoredText(ids, [64], [100, 200], scored=130, places=2)
    chosen: dict[str, Any] = {"overlap": 8, "attend": attend}
    every = settings(["exact", "sparse"], {"sparse": {"every": [1, 5]}})
    measured = TaskReport("perplexity", {}, PerplexityRow, None)
    with fotmem.attach(model, window=64, top_k=TOP_K) as memory:
        steps = perplexity.compare(model, memory, text, [100, 200], every, measured, **chosen)
        assert sum(steps) == 2 * 2 * 3
    none, *rows = measured.rows
    assert (none.tokens, none.store, none.store_quality) == (0, None, None)
    assert [(row.tokens, row.options) for row in rows] == [
        (size, setting.options) for size in (100, 200) for setting in every
    ]
    for number, setting in enumerate(every):
        options = {"store": setting.store, **setting.options}
        with fotmem.attach(model, window=64, top_k=TOP_K, **options) as memory:
            alone = perplexity.measure_perplexity(
                model, memory, text, [100, 200], store=setting.store, **chosen
            )
            plain, *expected = alone
        assert replace(none, seconds=0) == replace(plain, seconds=0)
        for row, one in zip(rows[number :: len(every)], expected, strict=True):
            assert row.perplexity == pytest.approx(one.perplexity, rel=1e-5)
            assert row.difference_interval == pytest.approx(one.difference_interval, abs=1e-5)
            assert (row.scored, row.memory) == (one.scored, True)
    assert rows[2].perplexity != pytest.approx(rows[0].perplexity, rel=1e-3)
    assert rows[0].store_quality
    assert rows[2].store_quality
    assert rows[2].store_quality.recall.high < rows[0].store_quality.recall.low == 1


def test_a_dictionary_is_read_once_and_built_once(
    built: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    plain = Memory.read

    def counted(memory: Memory, ids: torch.Tensor, **options: Any) -> None:
        read.append(len(ids))
        plain(memory, ids, **options)

    monkeypatch.setattr(Memory, "read", counted)
    model, every = new_model(0), settings(["sparse"], GRID)
    measured = TaskReport("dictionary", {}, DictionaryRow, None)
    with fotmem.attach(model, top_k=TOP_K) as memory:
        steps = dictionary.compare(model, memory, [999, 1500], every, measured, queries=60, seed=1)
        assert sum(steps) == 2 * 4
        assert type(memory.store(2)).__name__ == "ExactStore"
        rows = [replace(row, store_quality=None, options={}) for row in measured.rows]
        alone = dictionary.measure_dictionary(
            model, memory, [990], queries=60, store="sparse", seed=1
        )
        same: dict[str, Any] = {"seconds_per_query": 0, "tokens_per_second": 0, "ram": None}
        assert replace(next(alone), **same) == replace(rows[0], **same)
    assert read == [990, 1500, 990]
    assert built == [1, 2] * 2
    recalls = [row.store_quality.recall.value for row in measured.rows if row.store_quality]
    assert recalls[::2] == [1] * 4
    assert max(recalls[1::2]) < 0.5
