"""Tests the claim of the Focused Transformer paper: it takes negatives to be undistracted.

Three trainings that differ in one respect: which windows current windows attend to, besides their
own previous ones. That is none, the windows of another document, or these and a bank of earlier
windows. There is no decay, so that only training helps against distraction. Run by
``make ablation TEXT=FILE``, with text that was not trained on; finished parts are not repeated, and
the page on crossbatch gets the figures; reports of another text or command are refused, before
anything is trained. It takes about an hour on two cores.
"""

from pathlib import Path
from typing import Any

import torch

import fotmem
from fotmem.models.load import load_model
from fotmem.training.checkpoints import last_checkpoint
from recipes.given_texts import texts_given
from recipes.reports import by_tokens, check_report, fill, measured, share, table
from recipes.smollm2 import BUILD, OPTIONS, data
from recipes.stopping import run_recipe

REPORTS = Path("docs/ablation")
PAGE = Path("docs/crossbatch.md")
FIGURES = "<!-- figures, by make ablation -->\n"
STEPS = 120
VARIANTS: dict[str, dict[str, Any]] = {
    "positives only": {"d": (1,)},
    "and negatives": {},
    "and a bank": {"bank_windows": (0, 0, 0, 16), "bank_weight": 16.0},
}
MEASURED = {
    "16": "passkey {} --passages 0 --tokens 16k,64k --readings 1 --trials 20 --top-k 16",
    "all": "passkey {} --passages 0 --tokens 16k,64k --readings 1 --trials 20 --top-k all",
    "facts": "facts {} --passages 0 --tokens 16k --facts 32 --top-k 16",
    "perplexity": "perplexity {} --tokens 16k,64k",
}


def main() -> None:
    """Train and measure everything that is missing; write the table."""
    texts, rows = texts_given(), {}
    plans = {name: _plan(name) for name in VARIANTS}
    for plan in plans.values():
        for file, command in plan.values():
            check_report(file, command, texts)
    for name, plan in plans.items():
        tuned = _tuned(name)
        if not (tuned / "memory.json").exists():
            _train(name, tuned)
        rows[name] = {task: measured(*planned, texts) for task, planned in plan.items()}
    fill(PAGE, FIGURES, figures(rows))


def _plan(variant: str) -> dict[str, tuple[Path, str]]:
    """Return the report and the command of each evaluation of a variant."""
    tuned = _tuned(variant)
    return {
        task: (
            REPORTS / f"{variant.replace(' ', '-')}-{task}.json",
            command.format(tuned),
        )
        for task, command in MEASURED.items()
    }


def _tuned(variant: str) -> Path:
    return BUILD / f"ablation-{variant.replace(' ', '-')}"


def options(variant: str) -> fotmem.TrainingOptions:
    """Return the training options of a variant: those of the recipe, with fewer steps."""
    changed = {"decay": 0.0, "steps": STEPS, "evaluate_every": STEPS, **VARIANTS[variant]}
    return OPTIONS.model_copy(update=changed)


def figures(rows: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """Put the figures into a table: a row per measurement, a column per variant."""
    body = []
    for task, label in (("16", "pass key, top-k 16"), ("all", "pass key, all of memory")):
        found = [by_tokens(one[task], memory=True) for one in rows.values()]
        body += [
            [f"{label}, {size:,} tokens", *(share(one[size]) for one in found)] for size in found[0]
        ]
    facts = [
        share(row)
        for one in rows.values()
        for row in one["facts"]
        if row["memory"] and row["kind"] == "all"
    ]
    body.append(["32 facts in 16,384 tokens, top-k 16", *facts])
    for place, row in enumerate(next(iter(rows.values()))["perplexity"]):
        if row.get("sliding"):
            continue
        label = f"{row['tokens']:,} tokens in memory" if row["memory"] else "no memory"
        losses = [one["perplexity"][place]["perplexity"] for one in rows.values()]
        body.append([f"perplexity, {label}", *(f"{loss:.2f}" for loss in losses)])
    return table(["", *rows], body)


def _train(name: str, output: Path) -> None:
    model, tokenizer = load_model("smollm2", dtype=torch.bfloat16)
    resume = last_checkpoint(output) is not None
    fotmem.train(
        model, tokenizer, data(), output, options=options(name), resume=resume, progress=True
    )


if __name__ == "__main__":
    run_recipe(main)
