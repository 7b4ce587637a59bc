"""``fotmem eval``: a command for each task."""

import typer

from fotmem.cli.command import Command
from fotmem.cli.evaluate.curve import curve
from fotmem.cli.evaluate.dictionary import dictionary
from fotmem.cli.evaluate.distraction import distraction
from fotmem.cli.evaluate.facts import facts
from fotmem.cli.evaluate.passkey import passkey
from fotmem.cli.evaluate.perplexity import perplexity

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Measure how memory changes a model's answers.

    Example: fotmem eval passkey smollm2 --tokens 4096 --text book.txt
    """


for command in (passkey, facts, perplexity, dictionary, distraction, curve):
    app.command(cls=Command)(command)
