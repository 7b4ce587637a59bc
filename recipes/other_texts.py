"""Measures ``smollm2-fot`` on texts that neither training nor any choice used; fills in two pages.

Run by ``make report-texts TEXTS=FOLDER``: each ``.txt`` file of the folder is a text. A report that
exists is not measured again. The texts of the committed reports come from Debian packages::

    apt-get install anarchism debian-handbook
    python -m recipes.plain_text "/usr/share/doc/anarchism/html/sec*[0-9].html" texts/argument.txt
    python -m recipes.plain_text "/usr/share/doc/debian-handbook/html/en-US/*.html" texts/manual.txt
"""

import sys
from pathlib import Path

from recipes.reports import by_tokens, fill, measured, share, table
from recipes.smollm2 import SHIPPED
from recipes.smollm2_report import CARD, README, TUNED

MARKER = "<!-- figures on other texts -->\n"
REPORTS = SHIPPED / "texts"
LENGTHS = ("4k", "16k", "64k", "100k")
COMMAND = f"passkey {TUNED} --readings 1 --trials 20 --tokens"


def main(folder: Path) -> None:
    """Measure what has no report yet, and put all reports into the pages."""
    texts = sorted(folder.glob("*.txt"))
    if not texts:
        sys.exit(f"there is no .txt file in {folder}: give make TEXTS=FOLDER")
    REPORTS.mkdir(exist_ok=True)
    for text in texts:
        for length in LENGTHS:
            measured(REPORTS / f"{text.stem}-{length}.json", f"{COMMAND} {length}", [str(text)])
    figures = table_of(sorted({file.stem.rpartition("-")[0] for file in REPORTS.glob("*.json")}))
    for page in (CARD, README):
        fill(page, MARKER, figures)


def table_of(names: list[str]) -> str:
    """Write a table of exact match by text and length, and the command that measures it."""
    rows = []
    for name in names:
        files = [REPORTS / f"{name}-{length}.json" for length in LENGTHS]
        lengths = [by_tokens(measured(file, "", []), memory=True) for file in files]
        rows.append([name, *(share(row) for each in lengths for row in each.values())])
    head = ["text", *(f"{length} tokens" for length in LENGTHS)]
    return f"{table(head, rows)}\n    fotmem eval {COMMAND} {','.join(LENGTHS)} --text FILE\n"


if __name__ == "__main__":
    main(Path(*sys.argv[1:] or ["texts"]))
