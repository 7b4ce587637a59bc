"""Asks the same questions with several stores: what follows in a text, hidden numbers, facts."""

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fotmem.errors import InputError
from fotmem.measure.evaluate.facts import FactQuestion, make_facts
from fotmem.measure.reading import LOCAL
from fotmem.memory.contents import Contents
from fotmem.models.tokens import token_ids
from fotmem.tasks.pass_key import NAME, fact, question, split_answer
from recipes.read_text import NEW, WINDOW, Changed, ReadText

SCORED = 2048
"""Tokens whose loss is measured at each place of a text."""
FACTS = 32
LONG = 2**16
"""Tokens of a memory that all trials share up to the pass key; a shorter one is filled anew."""
AFTER_KEY = 2**15
"""Tokens from the pass key to the end of a long memory; in a shorter one it stands anywhere."""


class Setting(NamedTuple):
    """How a memory is asked."""

    store: str
    top_k: int | None

    def __str__(self) -> str:
        return f"`{self.store}`, {'all keys' if self.top_k is None else f'top {self.top_k}'}"


class Answer(NamedTuple):
    """The loss of what was expected, in nats, and whether each of its tokens was the likeliest."""

    loss: float
    right: bool


class Case(NamedTuple):
    """Questions about one memory.

    Attributes
    ----------
    task : str
    tokens : int
        Length of the memory.
    number : int
        Of the case, among those of the task and the length.
    before : range
        A part of the text with which the memory begins, and those of other cases.
    fill : callable
        Adds the rest to contents.
    ask : callable
        Asks all questions.
    """

    task: str
    tokens: int
    number: int
    before: range
    fill: Callable[[Contents], None]
    ask: Callable[[], list[Answer]]


@torch.no_grad()
def answer(model: Any, prompt: Sequence[int], expected: Sequence[int]) -> Answer:
    """Let a model continue a prompt; the loss is the sum over the expected tokens."""
    ids = torch.tensor([[*prompt, *expected]])
    logits = model(ids, logits_to_keep=len(expected) + 1).logits[0, :-1].float()
    right: Tensor = ids[0, -len(expected) :]
    loss = cross_entropy(logits, right, reduction="sum")
    return Answer(float(loss), bool((logits.argmax(-1) == right).all()))


def perplexities(text: ReadText, tokens: int, places: int) -> Iterator[Case]:
    """Score what follows the first parts of the text, each with this part in memory.

    What was scored is remembered, too.
    """
    stops = range(tokens, len(text) - SCORED + 1, tokens)
    for place, stop in enumerate(stops[:places]):
        fill = partial(text.add, part=range(stop - tokens, stop))
        yield Case("perplexity", tokens, place, range(0), fill, partial(_score, text, stop))


def _score(text: ReadText, start: int) -> list[Answer]:
    found, contents = [], text.memory.attached_model.contents
    for first in range(start, start + SCORED, WINDOW):
        window = text.ids[first : first + WINDOW]
        summed = answer(text.model, window[:1], window[1:])
        found.append(summed._replace(loss=summed.loss / (WINDOW - 1)))
        if len(contents):
            text.add(contents, range(first, first + WINDOW))
    return found


def pass_keys(text: ReadText, tokens: int, trials: int) -> Iterator[Case]:
    """Hide a pass key in a window of the text; a different one in each trial."""
    before = range((tokens - AFTER_KEY) // NEW * NEW if tokens >= LONG else 0)
    for trial in range(trials):
        draw = random.Random(f"pass key {tokens} {trial}")
        code = str(draw.randrange(10_000, 100_000))
        slot = len(before) // NEW or draw.randrange(tokens // NEW)
        hidden = _hidden(text, slot, fact(NAME, code), draw)
        asked = (question(NAME), code, draw.randrange(len(text.ids) - LOCAL))
        fill = partial(text.add, part=range(len(before), tokens), changes=[hidden])
        yield Case("pass key", tokens, trial, before, fill, partial(_ask, text, [asked]))


def facts(text: ReadText, tokens: int, trials: int) -> Iterator[Case]:
    """Hide many facts in one memory, and ask for each."""
    if tokens < FACTS * NEW:
        raise InputError(f"facts need {FACTS * NEW:,} tokens or more, got {tokens:,}")
    for trial in range(trials):
        draw = random.Random(f"facts {tokens} {trial}")
        made: list[FactQuestion] = make_facts(FACTS, trial)
        slots = sorted(draw.sample(range(tokens // NEW), FACTS))
        hidden = [
            _hidden(text, slot, f" {one.statement}", draw)
            for slot, one in zip(slots, made, strict=True)
        ]
        asked = [
            (f" {one.question}", one.fact.answer, draw.randrange(len(text.ids) - LOCAL))
            for one in made
        ]
        fill = partial(text.add, part=range(tokens), changes=hidden)
        yield Case("facts", tokens, trial, range(0), fill, partial(_ask, text, asked))


def _hidden(text: ReadText, slot: int, statement: str, draw: random.Random) -> Changed:
    """Hide a statement at a random place of a window of the text."""
    hidden = token_ids(text.tokenizer, statement)
    start = slot * NEW
    stop = start + NEW - len(hidden)
    depth = draw.randrange(start, stop + 1)
    return Changed(range(start, stop), text.ids[start:depth] + hidden + text.ids[depth:stop])


def _ask(text: ReadText, questions: Sequence[tuple[str, str, int]]) -> list[Answer]:
    """Ask questions, each after some other tokens of the text."""
    found = []
    for asked, code, local in questions:
        words, expected = split_answer(text.tokenizer, asked, code)
        found.append(answer(text.model, text.ids[local : local + LOCAL] + words, expected))
    return found
