"""RULER's tasks for lm-evaluation-harness, so that it runs them on its models, and on yours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fotmem.errors import OptionError, require_packages
from fotmem.measure.evaluate.ruler.haystacks import Source
from fotmem.measure.evaluate.ruler.sample import Sample, match
from fotmem.measure.evaluate.ruler.tasks import TASKS, make_samples

SCORE = "score"
"""Name of the metric."""


def harness_tasks(
    tokenizer: Any,
    text: str,
    tasks: Iterable[str] = tuple(TASKS),
    *,
    tokens: int = 4096,
    trials: int = 20,
    seed: int = 0,
) -> list[Any]:
    """Make tasks for ``lm_eval.simple_evaluate(tasks=...)``; nothing is downloaded.

    Samples are those of ``fotmem eval ruler``, each as one prompt: text and question. The score of
    an answer is the same, too.

    Parameters
    ----------
    tokenizer : transformers tokenizer
        Measures the texts.
    text : str
        What samples are made from.
    tasks : iterable of str
        Names of RULER's tasks; in the harness they begin with ``fotmem_``.
    tokens : int
        Length of text, question and answer together.
    trials : int
        Samples of each task.
    seed : int

    Returns
    -------
    list of lm_eval.api.task.ConfigurableTask

    Raises
    ------
    MissingPackageError
        lm-eval is not installed.
    OptionError
        There is no task of this name.
    InputError
        The text is too short, or `tokens` has no room for a task.
    """
    require_packages("harness_tasks", "lm_eval", extra="lm-eval")
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    source, made = Source(tokenizer, text), []
    for name in tasks:
        if name not in TASKS:
            raise OptionError(f"tasks must be some of {', '.join(TASKS)}, got {name!r}")
        samples = make_samples(source, name, tokens=tokens, trials=trials, seed=seed)
        documents = Dataset.from_list([_document(tokenizer, sample) for sample in samples])
        config = _config(name, samples[0].new_tokens)
        config["custom_dataset"] = lambda documents=documents, **_: {"test": documents}
        made.append(ConfigurableTask(config=config))
    return made


def _document(tokenizer: Any, sample: Sample) -> dict[str, Any]:
    return {
        "prompt": tokenizer.decode(
            [*sample.text, *sample.question], clean_up_tokenization_spaces=False
        ),
        "answers": sample.answers,
        "one_suffices": sample.one_suffices,
    }


def _config(name: str, new_tokens: int) -> dict[str, Any]:
    return {
        "task": f"fotmem_{name}",
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "prompt",
        "doc_to_target": "answers",
        "process_results": _score,
        "metric_list": [{"metric": SCORE, "aggregation": "mean", "higher_is_better": True}],
        "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": new_tokens},
    }


def _score(document: dict[str, Any], said: list[str]) -> dict[str, float]:
    [answer] = said
    one_suffices = document["one_suffices"]
    return {SCORE: match(answer, document["answers"], one_suffices=one_suffices)}
