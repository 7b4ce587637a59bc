"""How evaluations and captures read a text into memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fotmem.memory.memory import Memory

OVERLAP = 16
"""Tokens that consecutive reading windows share, at most half a window; see `Memory.read`."""
LOCAL = 16
"""Last tokens of the text that stay in the window, in front of the question.

A window that begins with the question leaves the model's heads nothing else to attend to: an
untuned SmolLM2 then finds half as many digits as with a few tokens of text before it.
"""


def overlap_of(memory: Memory) -> int:
    """Return the number of tokens that consecutive reading windows share."""
    return min(OVERLAP, memory.options.window // 2)


def remember(memory: Memory, tokens: list[int], *, attend: bool) -> None:
    """Read a text with windows that overlap by `OVERLAP` tokens.

    `attend` says whether the windows attend to memory while they are read.
    """
    memory.read(tokens, overlap=overlap_of(memory), attend=attend)
