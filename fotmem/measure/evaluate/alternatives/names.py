"""The alternatives by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fotmem.errors import OptionError, require_packages
from fotmem.measure.evaluate.alternatives.way import WindowWay

MEANINGS = {
    "window": "the last tokens of the text that fit the window",
    "context": "the last tokens that fit the model's whole context; the beginning is cut off",
    "bm25": "the passages that BM25 ranks best, as many as fit the window",
    "sinks": "StreamingLLM: a window that slides over the whole text, and its first 4 tokens",
}
"""What the model sees of a text, without a memory."""


def check_names(names: Sequence[str]) -> None:
    """Check the names of alternatives, and that what they need is installed.

    Raises
    ------
    OptionError
        There is no such alternative.
    MissingPackageError
        ``bm25`` needs bm25s.
    """
    for name in names:
        if name not in MEANINGS:
            raise OptionError(f"beside must be some of {', '.join(MEANINGS)}, got {name!r}")
    if "bm25" in names:
        require_packages("the alternative bm25", "bm25s")


def make_ways(
    names: Sequence[str], model: Any, tokenizer: Any, window: int
) -> dict[str, WindowWay]:
    """Make ways to answer with a model that has no memory, by name; see `MEANINGS`."""
    from fotmem.measure.evaluate.alternatives.attention_sinks import AttentionSinks
    from fotmem.measure.evaluate.alternatives.bm25 import Passages
    from fotmem.measure.evaluate.alternatives.last_tokens import LastTokens

    context = model.config.get_text_config().max_position_embeddings
    every = {
        "window": LastTokens(model, tokenizer, window),
        "context": LastTokens(model, tokenizer, context),
        "bm25": Passages(model, tokenizer, window),
        "sinks": AttentionSinks(model, tokenizer, window),
    }
    return {name: every[name] for name in names}
