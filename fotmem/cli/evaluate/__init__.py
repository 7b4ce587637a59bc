"""``fotmem eval``: a command for each task."""

import typer

from fotmem.cli.command import Command
from fotmem.cli.evaluate import (
    curve,
    dictionary,
    distraction,
    facts,
    passkey,
    perplexity,
    questions,
    ruler,
)

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Measure how memory changes a model's answers.

    Example: fotmem eval passkey smollm2 --tokens 4096 --text book.txt
    """


for command in (
    passkey.passkey,
    facts.facts,
    ruler.ruler,
    questions.questions,
    perplexity.perplexity,
    dictionary.dictionary,
    distraction.distraction,
    curve.curve,
):
    app.command(cls=Command)(command)
