"""Compares the answers of a model with `clusters` and with `exact`; fills in `docs/quality.md`.

Run by ``make report-answers TEXTS=FOLDER TOKENS=16k,64k``: the beginning of each ``.txt`` file of
the folder is read once, as far as it goes. What was measured already is not measured again: delete
the lines of a store that has changed.
"""

import json
import sys
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch

from fotmem.cli.parsing import parse_sizes
from fotmem.memory.contents import Contents
from fotmem.models.load import load_model
from recipes.answers import SCORED, Case, facts, pass_keys, perplexities
from recipes.answers_tables import ALL, BEST, CLUSTERS, NONE, CaseAnswers, read, tables
from recipes.given_texts import texts_of
from recipes.quality_report import LOOKUP
from recipes.read_text import ReadText
from recipes.reports import fill, measured
from recipes.stopping import run_recipe

PAGE = Path("docs/quality.md")
MARKER = "<!-- answers, by make report-answers -->\n"
REPORTS, BUILD = Path("docs/benchmarks/answers"), Path("build/answers")
DICTIONARY = f"{LOOKUP} --tokens 256k,1M --store clusters --top-k all"
LONGEST_SCORED = 2**16
"""Longest memory with which text is scored."""
PLACES, TRIALS, LONG_TRIALS = 3, 12, 8
SIZES = "16k,64k"


class Run:
    """Measures the cases of a text that are not in its file yet."""

    def __init__(self, text: ReadText, file: Path) -> None:
        self._text, self._file = text, file
        self._done = {found[:4] for found in read(file)}
        self._before: tuple[tuple[str, range], Contents] | None = None

    def measure(self, case: Case) -> None:
        """Ask with all settings."""
        for store, settings in (("exact", (NONE, BEST, ALL)), ("clusters", (CLUSTERS,))):
            missing = [each for each in settings if (*case[:3], each) not in self._done]
            filled = None
            for setting in missing:
                begin = time.monotonic()
                if setting == NONE:
                    self._text.put("exact", None)
                else:
                    filled = self._filled(case, store) if filled is None else filled
                    self._text.put(store, setting.top_k, filled.copy())
                self._write(CaseAnswers(*case[:3], setting, case.ask()), time.monotonic() - begin)

    def _filled(self, case: Case, store: str) -> Contents:
        """Fill a store; what other cases begin with, too, is filled once."""
        if self._before is None or self._before[0] != (store, case.before):
            self._before = None  # two of them at once may be too large
            begun = self._text.put(store, None)
            self._text.add(begun, case.before)
            self._before = ((store, case.before), begun)
        filled = self._before[1].copy()
        case.fill(filled)
        return filled

    def _write(self, found: CaseAnswers, seconds: float) -> None:
        line = found._asdict() | {"setting": [*found.setting], "seconds": round(seconds, 1)}
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        right = sum(each.right for each in found.answers)
        loss = sum(each.loss for each in found.answers) / len(found.answers)
        print(*found[:4], f"{right}/{len(found.answers)} {loss:.4f} {seconds:.0f} s", flush=True)


def cases(text: ReadText, sizes: list[int]) -> Iterator[Case]:
    """Yield what to ask about a text, the quick cases first."""
    for tokens in sizes:
        if tokens > len(text):
            continue
        trials = TRIALS if tokens <= LONGEST_SCORED else LONG_TRIALS
        made = [pass_keys(text, tokens, trials), facts(text, tokens, 1)]
        if tokens <= LONGEST_SCORED:
            made.append(perplexities(text, tokens, PLACES))
        yield from chain(*made)


def main(texts: list[Path], sizes: list[int]) -> None:
    """Measure what is missing, and write the tables."""
    REPORTS.mkdir(parents=True, exist_ok=True)
    measured(REPORTS / "dictionary.json", DICTIONARY, [])
    model, tokenizer = load_model("smollm2-fot", dtype=torch.bfloat16)
    most = max(*sizes, PLACES * min(max(sizes), LONGEST_SCORED) + SCORED)
    for file in texts:
        text = ReadText(model, tokenizer, file, BUILD / file.stem, most)
        run = Run(text, REPORTS / f"{file.stem}.jsonl")
        for case in cases(text, sizes):
            run.measure(case)
        text.memory.detach()
    publish()


def publish() -> None:
    """Put the tables into the page, and what measures them."""
    command = f"```console\n$ fotmem eval {DICTIONARY}\n```\n"
    fill(PAGE, MARKER, f"{tables(REPORTS)}\n{command}")


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit("which texts? Give make TEXTS=FOLDER")
    sizes = sys.argv[2] if sys.argv[2:] else SIZES
    run_recipe(lambda: main(texts_of(Path(sys.argv[1])), parse_sizes(sizes, "TOKENS")))
