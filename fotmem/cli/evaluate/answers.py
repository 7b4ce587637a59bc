"""Asks about texts with the options of a command, and shows the progress."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fotmem.cli.evaluate.task import Task
from fotmem.progress import tracked

if TYPE_CHECKING:
    from fotmem.measure.evaluate.alternatives.run import Answers
    from fotmem.measure.evaluate.alternatives.way import AskedText, Way
    from fotmem.measure.evaluate.window_share import ThreeAnswers


def ask(label: str, way: Way, texts: Sequence[AskedText]) -> Answers:
    """Ask a way to answer all questions; `label` stands beside the progress."""
    from fotmem.measure.evaluate.alternatives.run import ask_all

    total = sum(len(each.questions) for each in texts)
    return [*tracked(label, ask_all(way, texts), total)][-1]


def ask_without_memory(task: Task, label: str, texts: Sequence[AskedText]) -> Answers:
    """Ask a model that does not know the texts."""
    from fotmem.measure.evaluate.alternatives.local_text import LocalText

    return ask(f"{label}without memory", LocalText(task.model, task.tokenizer), texts)


def ask_with_memory(task: Task, label: str, texts: Sequence[AskedText]) -> Answers:
    """Ask with the texts in memory, one after another."""
    from fotmem.measure.evaluate.alternatives.attached_memory import AttachedMemory

    with task.attach() as memory:
        how = {name: task.options[name] for name in ("passages", "attend")}
        way = AttachedMemory(task.model, task.tokenizer, memory, **how)
        return ask(f"{label}with memory   ", way, texts)


def ask_in_window(task: Task, label: str, texts: Sequence[AskedText]) -> Answers:
    """Ask a model that does not know the texts, with the evidence in front of each question."""
    from fotmem.measure.evaluate.alternatives.local_text import LocalText

    way = LocalText(task.model, task.tokenizer, evidence=True)
    return ask(f"{label}in window     ", way, texts)


def ask_in_three_ways(task: Task, label: str, texts: Sequence[AskedText]) -> ThreeAnswers:
    """Ask without memory, with memory, and with the evidence in the window."""
    from fotmem.measure.evaluate.window_share import ThreeAnswers

    return ThreeAnswers(
        without_memory=ask_without_memory(task, label, texts),
        in_window=ask_in_window(task, label, texts),
        with_memory=ask_with_memory(task, label, texts),
    )
