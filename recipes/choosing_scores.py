"""What settings of a memory are chosen by: each text is read once, and asked with all of them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

import fotmem
from fotmem.errors import InputError, one_line
from fotmem.measure.evaluate.alternatives.asked_texts import of_pieces
from fotmem.measure.evaluate.alternatives.attached_memory import AttachedMemory
from fotmem.measure.evaluate.alternatives.bm25 import Passages
from fotmem.measure.evaluate.alternatives.local_text import LocalText
from fotmem.measure.evaluate.alternatives.run import ask_all
from fotmem.measure.evaluate.alternatives.way import AskedText, Way
from fotmem.measure.evaluate.bare_model import BareModel, window_losses
from fotmem.measure.evaluate.questions.text_pieces import TextPiece
from fotmem.measure.evaluate.scored_text import ScoredText
from fotmem.measure.reading import remember
from fotmem.models.load import load_model
from fotmem.outputs import write_bytes
from fotmem.tasks.answer import first_choices
from fotmem.tasks.asking import rereading
from recipes.answers import answer
from recipes.hard_text import HardText, Question

WINDOW = 512
BEFORE, SCORED, PLACES = 4096, 1024, 2
"""Tokens in memory, tokens to score after them, and at how many places of a text."""
BASE = "smollm2"
Setting = Mapping[str, Any]
"""How a memory is looked at, and how many ``passages`` are read again for a question."""
LOOKS = ("decay", "temperature", "top_k")
Answers = dict[str, list[float]]
"""A score of each answer, by what was asked."""


class Scores(NamedTuple):
    """The scores of a setting; the figures are their means."""

    answers: Answers
    shares: dict[str, list[float]]
    """What memory saves in each window of a text, as a share of what full attention saves; of the
    texts where that saves something."""
    costs: dict[str, list[float]]
    """The loss of each window without memory, minus that of the untuned model, in nats."""


class BaseLosses(NamedTuple):
    """What the untuned model loses on a text, ``[places, scored]`` in nats."""

    without: Tensor
    """In windows."""
    full: Tensor
    """With full attention to what would be in memory."""


def in_turn(memory: fotmem.Memory, settings: Sequence[Setting]) -> Iterator[int]:
    """Give a memory setting after setting; yield their numbers."""
    for number, setting in enumerate(settings):
        for name in LOOKS:
            setattr(memory, name, setting[name])
        yield number


def score_hard_text(
    model: Any, memory: fotmem.Memory, hard: HardText, settings: Sequence[Setting]
) -> list[Answers]:
    """Ask for everything that is hidden in the text."""
    memory.clear()
    unknown = _quotation_losses(model, None, hard, 0)
    remember(memory, hard.ids, attend=False)
    found: list[Answers] = []
    for number in in_turn(memory, settings):
        passages = settings[number]["passages"]
        keys = _choices(model, memory, hard.pass_keys, passages)
        known = _quotation_losses(model, memory, hard, passages)
        found.append(
            {
                "pass keys": [float(all(each)) for each in keys],
                "digits of pass keys": [sum(each) / len(each) for each in keys],
                "facts, trained wording": _right(model, memory, hard.trained_wording, passages),
                "facts, other wording": _right(model, memory, hard.other_wording, passages),
                "quotations (nats a token)": [
                    without - with_memory
                    for without, with_memory in zip(unknown, known, strict=True)
                ],
            }
        )
    return found


def _choices(
    model: Any, memory: fotmem.Memory, questions: Sequence[Question], passages: int
) -> list[list[bool]]:
    found = []
    for each in questions:
        with _rereading(memory, each, passages) as prompt:
            found.append(first_choices(model, prompt, each.answer))
    return found


def _right(
    model: Any, memory: fotmem.Memory, questions: Sequence[Question], passages: int
) -> list[float]:
    return [float(all(each)) for each in _choices(model, memory, questions, passages)]


def _quotation_losses(
    model: Any, memory: fotmem.Memory | None, hard: HardText, passages: int
) -> list[float]:
    found = []
    for each in hard.quotations:
        with _rereading(memory, each, passages) as prompt:
            found.append(answer(model, prompt, each.answer).loss / len(each.answer))
    return found


def _rereading(
    memory: fotmem.Memory | None, question: Question, passages: int
) -> AbstractContextManager[list[int]]:
    room = len(question.answer)
    return rereading(memory, question.local, question.asked, passages=passages, max_new_tokens=room)


def scored_text(ids: list[int]) -> ScoredText:
    """Say which tokens of a text are scored."""
    return ScoredText(ids, [WINDOW], [BEFORE], scored=SCORED, places=PLACES)


def base_losses(texts: Mapping[str, ScoredText], file: Path) -> dict[str, BaseLosses]:
    """Return what the untuned model loses on texts; measure it where there is no such file.

    Raises
    ------
    InputError
        The file is damaged.
    """
    if not file.exists():
        model, _ = load_model(BASE, dtype=torch.bfloat16)
        measured = {}
        for name, text in texts.items():
            measured[f"{name} without"] = _without(model, text)
            measured[f"{name} full"] = BareModel(model, text).full(BEFORE).losses
        write_bytes(file, save(measured))
    try:
        known = load_file(file)
        return {name: BaseLosses(known[f"{name} without"], known[f"{name} full"]) for name in texts}
    except (SafetensorError, KeyError) as error:  # or the same texts had other names
        raise InputError(
            f"{file} does not have the losses of these texts ({one_line(error)}): remove it, and "
            "run again"
        ) from error


def _without(model: Any, text: ScoredText) -> Tensor:
    windows = [each for part in text.parts for each in part.windows(WINDOW)]
    return text.joined([window_losses(model, tokens) for tokens in windows])


def score_text(
    model: Any,
    memory: fotmem.Memory,
    text: ScoredText,
    base: BaseLosses,
    settings: Sequence[Setting],
) -> tuple[list[float], list[list[float]]]:
    """Score what follows in a text, with what stands before it in memory.

    Returns
    -------
    list of float
        The loss of each window without memory, minus that of the untuned model.
    list of list of float
        For each setting, what memory saves in each window as a share of what full attention saves
        the untuned model in all of them; empty where that saves nothing.
    """
    memory.clear()
    without = _without(model, text)
    cost = text.window_means(without - base.without, WINDOW).tolist()
    most = text.mean(base.without - base.full)
    if most <= 0:
        return cost, []
    found: list[list[Tensor]] = [[] for _ in settings]
    for part in text.parts:
        memory.clear()
        remember(memory, part.before[-BEFORE:], attend=False)
        for tokens in part.windows(WINDOW):
            for number in in_turn(memory, settings):
                found[number].append(window_losses(model, tokens))
            remember(memory, tokens, attend=False)
    saved = [text.window_means(without - text.joined(each), WINDOW) / most for each in found]
    return cost, [each.tolist() for each in saved]


def score_questions(
    model: Any,
    tokenizer: Any,
    memory: fotmem.Memory,
    pieces: Sequence[TextPiece],
    settings: Sequence[Setting],
) -> list[dict[str, list[float]]]:
    """Ask questions with the text in memory, for each setting, and without a memory in two ways."""
    others: dict[str, list[float]] = {", in the window": [], ", by BM25": []}
    found: list[list[float]] = [[] for _ in settings]
    ways = (LocalText(model, tokenizer, evidence=True), Passages(model, tokenizer, WINDOW))
    for piece in pieces:
        texts = of_pieces(tokenizer, [piece])
        memory.clear()
        for way, scores in zip(ways, others.values(), strict=True):
            scores.extend(_scores(way, texts))
        with_memory = AttachedMemory(model, tokenizer, memory)
        for number in in_turn(memory, settings):
            with_memory.passages = settings[number]["passages"]
            found[number] += _scores(with_memory, texts)
    return [
        {"natural questions" + kind: scores for kind, scores in {"": right, **others}.items()}
        for right in found
    ]


def _scores(way: Way, texts: Sequence[AskedText]) -> list[float]:
    return [*ask_all(way, texts)][-1].scores
