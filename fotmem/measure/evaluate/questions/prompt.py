"""How a natural question is put after a text, and what counts of an answer."""

NEW_TOKENS = 32
PROMPT = "\n\nQuestion: {question}\nShort answer:"
"""What follows the text.

SmolLM2-135M answers it no worse than its chat template, and sooner: measured with the passage in
the window, on texts that no figures are reported for.
"""


def is_finished(said: str) -> bool:
    """Return whether an answer has its first line, which counts."""
    return "\n" in said.strip()


def first_line(said: str) -> str:
    """Return what counts of an answer."""
    return said.partition("\n")[0]
