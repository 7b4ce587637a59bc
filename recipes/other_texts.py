"""Measures ``smollm2-fot`` on texts that neither training nor any choice used; fills in two pages.

Run by ``make report-texts TEXTS=FOLDER``: each ``.txt`` file of the folder is a text, such as those
of ``make texts`` in ``build/texts/test``. A report that exists is not measured again. The committed
reports are of the texts `argument` and `manual` as an earlier version of that recipe made them.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from recipes.reports import by_tokens, fill, measured, share, table
from recipes.smollm2_report import (
    CARD,
    LENGTHS,
    OTHER_TEXTS,
    README,
    TUNED,
    on_other_text,
    other_report,
)

MARKER = "<!-- figures on other texts -->\n"
COMMAND = f"passkey {TUNED} --readings 1 --trials 20 --tokens"


def main(folder: Path) -> None:
    """Measure what has no report yet, and put all reports into the pages."""
    texts = sorted(folder.glob("*.txt"))
    if not texts:
        sys.exit(f"there is no .txt file in {folder}: give make TEXTS=FOLDER")
    for text in texts:
        for length in LENGTHS:
            report = other_report(text.stem, length)
            report.parent.mkdir(exist_ok=True)
            measured(report, f"{COMMAND} {length}", [str(text)])
    for page in (CARD, README):
        fill(page, MARKER, table_of({*OTHER_TEXTS, *(text.stem for text in texts)}))


def table_of(names: Iterable[str]) -> str:
    """Write a table of exact match by text and length, and the command that measures it."""
    rows = []
    for name in sorted(names):
        lengths = by_tokens(on_other_text(name), memory=True)
        rows.append([name, *(share(row) for row in lengths.values())])
    head = ["text", *(f"{length} tokens" for length in LENGTHS)]
    return f"{table(head, rows)}\n    fotmem eval {COMMAND} {','.join(LENGTHS)} --text FILE\n"


if __name__ == "__main__":
    main(Path(*sys.argv[1:] or ["texts"]))
