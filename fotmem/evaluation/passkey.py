"""The pass key task: a number hidden in a long text, asked for at the end.

Mohtashami and Jaggi 2023 (arXiv:2305.16300), as used by the Focused Transformer paper.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fotmem.answer import answer, first_choices
from fotmem.errors import InputError
from fotmem.evaluation.intervals import wilson

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
    answer_interval: tuple[float, float]
    """Of `answer_accuracy`, at 95% (Wilson)."""
    trials: int
    seconds: float


@dataclass(frozen=True)
class Trial:
    """One hidden number: what is read into memory, what stays local, and the number."""

    read: list[int]
    local: list[int]
    code: str
    shared: list[int] = field(default_factory=list)
    """What is read before, once for all trials that have it."""
    replaced: range = range(0)
    """Which tokens of the shared text `read` is put in place of."""


def make_trials(
    tokenizer: Any,
    text: str,
    *,
    tokens: int,
    trials: int,
    seed: int,
    window: int = 0,
    readings: int | None = None,
    longest: int = 0,
) -> list[Trial]:
    """Hide a five-digit number at a random depth of each of `trials` pieces of a text.

    With `readings`, there are only so many pieces: each is read once, without a number, and for
    each of its trials one window of `window` tokens is read anew, with the number in it, and put
    in its place (`Memory.replace`). That is the piece with the number at that depth, as long as
    windows are read without looking at memory. Pieces of one `longest` begin alike: what was read
    of a shorter one need not be read again.

    Raises
    ------
    InputError
        If the text is shorter than `tokens`, or `tokens` leaves no room for the fact.
    """
    ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    draw, drawn = random.Random(seed), random.Random(f"pieces {seed}")
    made: list[Trial] = []
    for number in range(trials):
        code = str(draw.randrange(10_000, 100_000))
        hidden = tokenizer(fact(NAME, code), add_special_tokens=False).input_ids
        filler = tokens - len(hidden)
        if filler <= LOCAL:
            raise InputError(
                f"tokens must be more than {LOCAL + len(hidden)} (fact, local text), got {tokens}"
            )
        if len(ids) < filler:
            raise InputError(f"the text has {len(ids):,} tokens, {filler:,} are needed: add text")
        if readings is None:
            piece = _piece(ids, filler, draw)
            depth = draw.randrange(filler - LOCAL + 1)
            read = piece[:depth] + hidden + piece[depth : filler - LOCAL]
            made.append(Trial(read, piece[filler - LOCAL :], code))
            continue
        if number * readings // trials != (number - 1) * readings // trials:
            piece = _piece(ids, min(max(tokens, longest), len(ids)), drawn)[:filler]
            shared, local = piece[: filler - LOCAL], piece[filler - LOCAL :]
        read, replaced = _surrounded(shared, hidden, window, draw)
        made.append(Trial(read, local, code, shared, replaced))
    return made


def score(
    model: Any, tokenizer: Any, trial: Trial, memory: Memory | None, *, attend: bool = False
) -> tuple[float, bool]:
    """Ask for the number: share of digits right, and whether the generated answer is right."""
    if memory is None:
        return _ask(model, tokenizer, trial)
    if not trial.shared:
        memory.clear()
        remember(memory, trial.read, attend=attend)
        return _ask(model, tokenizer, trial)
    with memory.temporarily():
        start, stop = trial.replaced.start, trial.replaced.stop
        memory.replace(start, stop, trial.read, overlap=overlap_of(memory), attend=attend)
        return _ask(model, tokenizer, trial)


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
    model: Any,
    tokenizer: Any,
    trials: list[Trial],
    memory: Memory | None,
    store: str | None,
    *,
    attend: bool = False,
) -> Iterator[PasskeyRow]:
    """Measure trial by trial; each row covers the trials so far, the last one covers all.

    `attend`: whether windows that are read look at memory.
    """
    digits = answers = 0.0
    held: list[int] | None = None
    begin = time.perf_counter()
    for done, trial in enumerate(trials, 1):
        if memory is not None and trial.shared and trial.shared is not held:
            held = trial.shared
            known = memory.tokens.tolist()
            if known != held[: len(known)]:
                memory.clear()
                known = []
            remember(memory, held[len(known) :], attend=attend)
        share, whole = score(model, tokenizer, trial, memory, attend=attend)
        digits, answers = digits + share, answers + whole
        yield PasskeyRow(
            tokens=len(trial.shared) - len(trial.replaced) + len(trial.read) + len(trial.local),
            memory=memory is not None,
            store=store,
            digit_accuracy=digits / done,
            answer_accuracy=answers / done,
            answer_interval=wilson(answers, done),
            trials=done,
            seconds=time.perf_counter() - begin,
        )


def _piece(ids: list[int], length: int, draw: random.Random) -> list[int]:
    start = draw.randrange(len(ids) - length + 1)
    return ids[start : start + length]


def _surrounded(
    text: list[int], hidden: list[int], window: int, draw: random.Random
) -> tuple[list[int], range]:
    """Put a fact at a random place of a text; return the window around it, and what it replaces."""
    room = min(len(text), max(0, window - OVERLAP - len(hidden)))
    depth = draw.randrange(len(text) + 1)
    begin = min(max(0, depth - draw.randrange(room + 1)), len(text) - room)
    end = begin + room
    return text[begin:depth] + hidden + text[depth:end], range(begin, end)


def remember(memory: Memory, tokens: list[int], *, attend: bool) -> None:
    """Read a text as all evaluations do, its windows overlapping by `OVERLAP`."""
    memory.read(tokens, overlap=overlap_of(memory), attend=attend)


def overlap_of(memory: Memory) -> int:
    """Return by how many tokens the windows of a reading overlap, in all evaluations."""
    return min(OVERLAP, memory.windowing.window // 2)


def _ask(model: Any, tokenizer: Any, trial: Trial) -> tuple[float, bool]:
    asked, code = split_answer(tokenizer, question(NAME), trial.code)
    prompt = trial.local + asked
    digits = [sum(map(str.isdigit, tokenizer.decode([token]))) for token in code]
    choices = first_choices(model, prompt, code)
    right = sum(count for count, choice in zip(digits, choices, strict=True) if choice)
    generated = answer(model, tokenizer, prompt, max_new_tokens=len(code)).text
    return right / sum(digits), generated == trial.code
