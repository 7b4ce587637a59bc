"""Tests the claim of the Focused Transformer paper: it takes negatives to be undistracted.

Three trainings, alike but for what current windows attend to besides their own previous one:
nothing, the previous windows of three other documents, or these and a bank of 32 earlier ones.
Run by ``make ablation TEXT=FILE``, with text that was not trained on; what is done is not done
again. On two cores it takes about an hour.
"""

from pathlib import Path

import fotmem
from fotmem.models import load_model
from recipes.reports import measured, texts_given
from recipes.smollm2 import BUILD, LAYERS, data

REPORTS = Path("docs/ablation")
STEPS = 120
VARIANTS: dict[str, dict[str, tuple[int, ...]]] = {
    "positives": {"d": (1,), "bank_windows": (0,)},
    "batch": {"bank_windows": (0,)},
    "bank": {},
}


def main() -> None:
    """Train and measure what is not there yet; print a line per measurement."""
    texts = texts_given()
    for name in VARIANTS:
        tuned = BUILD / f"ablation-{name}"
        if not (tuned / "memory.json").exists():
            _train(name, tuned)
        for top_k in ("16", "all"):
            rows = measured(
                REPORTS / f"{name}-{top_k}.json",
                f"passkey {tuned} --tokens 16k,64k --readings 1 --trials 20 --top-k {top_k}",
                texts,
            )
            for row in rows:
                if row["memory"]:
                    low, high = row["answer_interval"]
                    print(
                        f"{name:>10}, {row['tokens']:>6} tokens, top-k {top_k:>3}: "
                        f"{row['answer_accuracy']:.2f} ({low:.2f} to {high:.2f})"
                    )


def options(variant: str) -> fotmem.TrainingOptions:
    """Return how a variant is trained."""
    return fotmem.TrainingOptions.model_validate(
        {
            "layers": LAYERS,
            "steps": STEPS,
            "facts": 1.0,
            "distillation": 0.0,
            "evaluate_every": STEPS,
            "bf16": True,
            **VARIANTS[variant],
        }
    )


def _train(variant: str, output: Path) -> None:
    model, tokenizer = load_model("smollm2")
    fotmem.train(
        model, tokenizer, data(), output, options=options(variant), resume=True, progress=True
    )


if __name__ == "__main__":
    main()
