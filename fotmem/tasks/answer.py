"""Answers a question, and names the remembered tokens that the answer came from."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from fotmem.models.predictions import check_predictions

if TYPE_CHECKING:
    from fotmem.memory.explain import AttendedToken
    from fotmem.memory.memory import Memory


@dataclass(frozen=True)
class Answer:
    """The answer of a model, and the remembered tokens that it attended to."""

    text: str
    sources: list[AttendedToken]
    """Remembered tokens, best first; ``weight`` is the largest over layers and answer tokens."""
    step_seconds: list[float] = field(default_factory=list, compare=False)
    """Seconds of each token after the first, which comes with the prompt."""


class _Clock(LogitsProcessor):
    """Records the time of each token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if scores.is_cuda:
            torch.cuda.synchronize(scores.device)
        self.times.append(time.perf_counter())
        return scores


class _Check(LogitsProcessor):
    """Refuses to choose a token by scores that are not numbers."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        check_predictions(scores)
        return scores


class _Watch(LogitsProcessor):
    """Records after every generated token which remembered tokens it attended to."""

    def __init__(self, memory: Memory, tokenizer: Any) -> None:
        self.found: list[AttendedToken] = []
        self._memory, self._tokenizer = memory, tokenizer

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self.found += self._memory.explain(self._tokenizer, top=100)
        return scores


class _Until(StoppingCriteria):
    """Ends the generation as soon as what was said suffices."""

    def __init__(self, tokenizer: Any, prompt: int, suffices: Callable[[str], bool]) -> None:
        self._tokenizer, self._prompt, self._suffices = tokenizer, prompt, suffices

    def __call__(
        self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any
    ) -> torch.BoolTensor:
        said = self._tokenizer.batch_decode(input_ids[:, self._prompt :], skip_special_tokens=True)
        done = [self._suffices(each) for each in said]
        return torch.tensor(done, device=input_ids.device)  # type: ignore[return-value]


def answer_question(
    model: Any,
    tokenizer: Any,
    prompt: list[int],
    *,
    memory: Memory | None = None,
    max_new_tokens: int = 40,
    top: int = 5,
    until: Callable[[str], bool] | None = None,
    **options: Any,
) -> Answer:
    """Generate greedily from token ids.

    Parameters
    ----------
    model, tokenizer
        A causal language model, with or without an attached memory, and its tokenizer.
    prompt : list of int
        Token ids.
    memory : Memory, optional
        The attached memory, to collect sources from.
    max_new_tokens : int
        How much to generate at most.
    top : int
        Sources to return at most.
    until : callable, optional
        Takes what was said so far; where it returns True, generation ends.
    **options
        Other arguments of ``generate``, such as a cache of the first tokens of the prompt.

    Raises
    ------
    InputError
        The model predicts nan or inf.
    """
    ids = torch.tensor([prompt], device=model.device)
    watch = [] if memory is None else [_Watch(memory, tokenizer)]
    clock = _Clock()
    enough = [] if until is None else [_Until(tokenizer, len(prompt), until)]
    with torch.no_grad():
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
            logits_processor=LogitsProcessorList([_Check(), clock, *watch]),
            stopping_criteria=StoppingCriteriaList(enough),
            **options,
        )
    text = tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True).strip()
    sources = _best([found for watched in watch for found in watched.found], top)
    return Answer(text, sources, [end - begin for begin, end in pairwise(clock.times)])


def first_choices(model: Any, prompt: list[int], truth: list[int]) -> list[bool]:
    """Return whether each token of a true answer is the likeliest, given the tokens before it."""
    ids = torch.tensor([prompt + truth], device=model.device)
    with torch.no_grad():
        logits = model(ids, logits_to_keep=len(truth) + 1).logits[0]
    guesses = logits[:-1].argmax(-1).tolist()
    return [guess == token for guess, token in zip(guesses, truth, strict=True)]


def question_prompt(tokenizer: Any, question: str) -> list[int]:
    """Tokenize a question as the model expects it: with its chat template, or as plain text."""
    if getattr(tokenizer, "chat_template", None):
        chat = [{"role": "user", "content": question}]
        ids: list[int] = tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        return ids
    return list(tokenizer(f"Question: {question}\nAnswer:").input_ids)


def _best(attended: list[AttendedToken], top: int) -> list[AttendedToken]:
    best: dict[int, AttendedToken] = {}
    for found in attended:
        if found.position not in best or best[found.position].weight < found.weight:
            best[found.position] = found
    return sorted(best.values(), key=lambda found: -found.weight)[:top]
