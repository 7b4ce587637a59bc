"""Asks a memory: the model reads passages again that the question attends to, or attends itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from fotmem.memory.choosing import using
from fotmem.tasks.answer import answer_question, question_prompt
from fotmem.tasks.passages import Passage, quoted
from fotmem.tasks.passages import passages as merged

if TYPE_CHECKING:
    from fotmem.memory.memory import Memory
    from fotmem.memory.retrieval import RereadPrompt


@contextmanager
def rereading(
    memory: Memory | None,
    local: Sequence[int],
    question: Sequence[int],
    *,
    passages: int,
    max_new_tokens: int,
) -> Iterator[list[int]]:
    """Yield the prompt for a question, with the passages of a memory that it attends to.

    Inside the block the model sees this prompt only. Without passages, it attends to memory.

    Parameters
    ----------
    memory : Memory, optional
    local : sequence of int
        Text that stays in the window, before the question, as token ids.
    question : sequence of int
    passages : int
        How many to read again, at most; 0: none.
    max_new_tokens : int
        Room to leave for the answer.
    """
    if memory is None or not passages:
        yield [*local, *question]
        return
    prompt = memory.reread(
        [*local, *question],
        passages=passages,
        asking=len(question),
        max_new_tokens=max_new_tokens,
    )
    with _alone(prompt):
        yield prompt.input_ids[0].tolist()


def _alone(prompt: RereadPrompt) -> AbstractContextManager[None]:
    """Let the model see this prompt only, if it has passages."""
    return using() if prompt.passages else nullcontext()


def answer_from(
    memory: Memory,
    model: Any,
    tokenizer: Any,
    question: str,
    *,
    passages: int,
    max_new_tokens: int,
) -> tuple[str, list[Passage]]:
    """Answer a question, and say from which passages of a memory.

    Parameters
    ----------
    memory : Memory
    model, tokenizer
        The model that the memory is attached to, and its tokenizer.
    question : str
    passages : int
        How many are read again for the question, at most. With 0, or where the window has no room
        for any, the answer attends to memory, and its sources are where it attends to.
    max_new_tokens : int
        How much to generate at most.
    """
    prompt, other = (question_prompt(tokenizer, each) for each in (question, ""))
    pairs = zip(prompt, other, strict=False)
    begin = len([*takewhile(lambda pair: pair[0] == pair[1], pairs)])  # of the question itself
    if getattr(tokenizer, "chat_template", None):  # passages are said by the user
        prefix = begin
    else:
        prefix = len([*takewhile(set(tokenizer.all_special_ids).__contains__, prompt)])
    again = memory.reread(
        prompt,
        passages=passages,
        asking=len(prompt) - begin,
        prefix=prefix,
        max_new_tokens=max_new_tokens,
    )
    with _alone(again):
        said = answer_question(
            model,
            tokenizer,
            again.input_ids[0].tolist(),
            memory=None if again.passages else memory,
            max_new_tokens=max_new_tokens,
        )
    sources = quoted(memory, tokenizer, again.passages) or merged(memory, tokenizer, said.sources)
    return said.text, sources
