"""RULER's tasks in lm-evaluation-harness, which runs them on a model with a memory."""

from dataclasses import replace
from typing import Any

import pytest

import fotmem
from fotmem.errors import MissingPackageError, OptionError
from fotmem.measure.evaluate.alternatives.asked_texts import of_samples
from fotmem.measure.evaluate.alternatives.local_text import LocalText
from fotmem.measure.evaluate.alternatives.run import ask_all
from fotmem.measure.evaluate.ruler import harness
from fotmem.measure.evaluate.ruler.harness import SCORE, harness_tasks
from fotmem.measure.evaluate.ruler.haystacks import Source
from fotmem.measure.evaluate.ruler.sample import Sample
from fotmem.measure.evaluate.ruler.tasks import make_samples
from fotmem.tasks.answer import answer_question
from tests import folders
from tests.tiny import one_thread  # noqa: F401 - a fixture

TOKENIZER = folders.tokenizer("digits")
TEXT = folders.PROSE[:3000]


def test_without_the_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fotmem.errors.find_spec", lambda package: None)
    with pytest.raises(MissingPackageError, match=r"pip install 'fotmem\[lm-eval\]'"):
        harness_tasks(TOKENIZER, TEXT)


def whole(sample: Sample) -> Sample:
    """Tokenize text and question together, as the harness does, and ask for few tokens."""
    prompt = TOKENIZER.decode(sample.text + sample.question)
    ids = TOKENIZER(prompt).input_ids
    return replace(sample, read=ids, local=[], question=[], new_tokens=9)


@pytest.mark.thorough
def test_scores_are_those_of_fotmem(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text, longer than the window, overflows; a tiny model is right in two of three cases."""
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.models.huggingface import HFLM

    model, expected = folders.model(), {}

    def made(source: Source, name: str, **options: Any) -> list[Sample]:
        first, second, third = map(whole, make_samples(source, name, **options))
        known = [
            replace(one, answers=[answer_question(model, TOKENIZER, one.read).text[:4]])
            for one in (first, second)
        ]
        samples = [*known, replace(third, answers=["never"])]
        way = LocalText(model, TOKENIZER)
        [*_, answers] = ask_all(way, of_samples([replace(one, local=one.read) for one in samples]))
        expected[f"fotmem_{name}"] = answers.scores
        return samples

    monkeypatch.setattr(harness, "make_samples", made)
    with fotmem.attach(model, window=64):
        tasks = harness_tasks(TOKENIZER, TEXT, ["niah_single_2", "qa"], tokens=700, trials=3)
        lm = HFLM(pretrained=model, tokenizer=TOKENIZER, max_length=1000)
        found = lm_eval.simple_evaluate(model=lm, tasks=tasks, bootstrap_iters=0)
    assert expected == {"fotmem_niah_single_2": [1, 1, 0], "fotmem_qa": [1, 1, 0]}
    for name, scores in expected.items():
        assert found["results"][name][f"{SCORE},none"] == pytest.approx(sum(scores) / 3)


@pytest.mark.thorough
def test_a_prompt_is_a_sample_as_fotmem_asks_it() -> None:
    pytest.importorskip("lm_eval")
    [task] = harness_tasks(TOKENIZER, TEXT, ["niah_multikey_1"], tokens=700, trials=2, seed=3)
    samples = make_samples(Source(TOKENIZER, TEXT), "niah_multikey_1", tokens=700, trials=2, seed=3)
    for document, sample in zip(task.eval_docs, samples, strict=True):
        whole = TOKENIZER.decode(sample.text + sample.question)
        assert (document["prompt"], document["answers"]) == (whole, sample.answers)
    assert task.config.generation_kwargs["max_gen_toks"] == samples[0].new_tokens


@pytest.mark.thorough
def test_an_unknown_task() -> None:
    pytest.importorskip("lm_eval")
    with pytest.raises(OptionError, match=r"tasks must be some of niah_single_1, .*, got 'niah'"):
        harness_tasks(TOKENIZER, TEXT, ["niah"])
