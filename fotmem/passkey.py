"""The pass key task: a number hidden in a long text, asked for at the end.

Mohtashami and Jaggi 2023 (arXiv:2305.16300), as used by the Focused Transformer paper.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fotmem.answer import answer, first_choices
from fotmem.errors import InputError

if TYPE_CHECKING:
    from fotmem.memory import Memory

NAME = "pass key"
OVERLAP = 16
"""Tokens by which reading windows overlap, at most half a window; see `Memory.read`."""
LOCAL = 16
"""Last tokens of the text that stay in front of the question.

A context that begins with the question leaves its heads nothing else to look at: an untuned
SmolLM2 then finds half as many digits as with a few tokens of text before it.
"""


def fact(name: str, code: str) -> str:
    """Say what is hidden in the text."""
    return f" The {name} is {code}. Remember it. {code} is the {name}."


def question(name: str) -> str:
    """Ask for it, so that the next token is the answer."""
    return f" What is the {name}? The {name} is"


@dataclass(frozen=True)
class PasskeyRow:
    """What was measured, with or without memory."""

    tokens: int
    memory: bool
    store: str | None
    digit_accuracy: float
    """Share of digits that are the likeliest token, given the true ones before."""
    answer_accuracy: float
    """Share of trials in which greedy generation gives all digits."""
    trials: int
    seconds: float


@dataclass(frozen=True)
class Trial:
    """One hidden number: what is read into memory, what stays local, and the number."""

    read: list[int]
    local: list[int]
    code: str


def make_trials(tokenizer: Any, text: str, *, tokens: int, trials: int, seed: int) -> list[Trial]:
    """Hide a five-digit number at a random depth of each of `trials` pieces of a text.

    Raises
    ------
    InputError
        If the text is shorter than `tokens`, or `tokens` leaves no room for the fact.
    """
    ids = tokenizer(text, add_special_tokens=False).input_ids
    draw = random.Random(seed)
    made = []
    for _ in range(trials):
        code = str(draw.randrange(10_000, 100_000))
        hidden = tokenizer(fact(NAME, code), add_special_tokens=False).input_ids
        filler = tokens - len(hidden)
        if filler <= LOCAL:
            raise InputError(
                f"tokens must be more than {LOCAL + len(hidden)} (fact, local text), got {tokens}"
            )
        if len(ids) < filler:
            raise InputError(f"the text has {len(ids):,} tokens, {filler:,} are needed: add text")
        start = draw.randrange(len(ids) - filler + 1)
        piece = ids[start : start + filler]
        depth = draw.randrange(filler - LOCAL + 1)
        read = piece[:depth] + hidden + piece[depth : filler - LOCAL]
        made.append(Trial(read, piece[filler - LOCAL :], code))
    return made


def score(model: Any, tokenizer: Any, trial: Trial, memory: Memory | None) -> tuple[float, bool]:
    """Ask for the number: share of digits right, and whether the generated answer is right."""
    if memory is not None:
        memory.clear()
        memory.read(trial.read, overlap=min(OVERLAP, memory.windowing.window // 2))
    asked, code = split_answer(tokenizer, question(NAME), trial.code)
    prompt = trial.local + asked
    digits = [sum(map(str.isdigit, tokenizer.decode([token]))) for token in code]
    choices = first_choices(model, prompt, code)
    right = sum(count for count, choice in zip(digits, choices, strict=True) if choice)
    generated = answer(model, tokenizer, prompt, max_new_tokens=len(code)).text
    return right / sum(digits), generated == trial.code


def split_answer(tokenizer: Any, asked: str, code: str) -> tuple[list[int], list[int]]:
    """Tokenize a question without digits and its answer, so that the answer begins with a digit.

    Where a tokenizer has a token of its own for the space before a number, as LLaMA's have, it
    belongs to the question: the task is to find digits, not to guess that digits follow. Both are
    tokenized at once, as in the text: LLaMA's put a space before whatever they are given.
    """
    tokens = list(tokenizer(f"{asked} {code}", add_special_tokens=False).input_ids)
    first = next(
        i for i, token in enumerate(tokens) if any(map(str.isdigit, tokenizer.decode([token])))
    )
    return tokens[:first], tokens[first:]


def passkey(
    model: Any, tokenizer: Any, trials: list[Trial], memory: Memory | None, store: str | None
) -> Iterator[PasskeyRow]:
    """Measure trial by trial; each row covers the trials so far, the last one covers all."""
    digits = answers = 0.0
    begin = time.perf_counter()
    for done, trial in enumerate(trials, 1):
        share, whole = score(model, tokenizer, trial, memory)
        digits, answers = digits + share, answers + whole
        yield PasskeyRow(
            tokens=len(trial.read) + len(trial.local),
            memory=memory is not None,
            store=store,
            digit_accuracy=digits / done,
            answer_accuracy=answers / done,
            trials=done,
            seconds=time.perf_counter() - begin,
        )
