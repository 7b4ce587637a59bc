"""Measures ``smollm2-fot`` beside its base model, draws a curve, fills its card and the README.

Run by ``make report-smollm2 TEXT=FILE``, with text that was not trained on. Reports that exist are
not measured again: delete those of an older adapter. All is measured in bfloat16: reading takes a
quarter of the time on processors that multiply it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fotmem.training.tune import DISTANCE
from recipes.reports import by_tokens, fill, measured, share, table, texts_given
from recipes.smollm2 import OPTIONS, SHIPPED, TEMPERATURE

PICTURE = Path("docs/passkey.png")
CARD = SHIPPED / "README.md"
README = Path("README.md")
FIGURES = "<!-- figures, by make report-smollm2 -->\n"
BASE, TUNED = (f"{name} --dtype bfloat16" for name in ("smollm2", "smollm2-fot"))
ALIKE = f"{BASE} --distance {DISTANCE} --decay {OPTIONS.decay:g} --temperature {TEMPERATURE:g}"
MEASURED = {
    "passkey-tuned": (
        f"passkey {TUNED} --tokens 4k,16k,64k,100k,256k,512k,960k --readings 1 --trials 20"
    ),
    "passkey-base": f"passkey {BASE} --tokens 4k,16k,64k --readings 1 --trials 20",
    "passkey-tuned-dense": f"passkey {TUNED} --tokens 4k,16k,64k,100k --readings 1 --top-k all",
    "facts-tuned": f"facts {TUNED} --tokens 16k --facts 32",
    "perplexity-tuned": f"perplexity {TUNED} --tokens 4k,16k,64k --places 4",
    "perplexity-tuned-1": f"perplexity {TUNED} --temperature 1 --tokens 4k,16k,64k --places 4",
    "perplexity-base": f"perplexity {ALIKE} --tokens 4k,16k,64k --places 4",
    "perplexity-base-near": f"perplexity {BASE} --tokens 4k,16k,64k --places 4",
    "passkey-tuned-attend": f"passkey {TUNED} --tokens 4k --trials 20 --attend",
    "perplexity-tuned-attend": f"perplexity {TUNED} --tokens 4k,16k --places 4 --attend",
}
APART = 1.05
"""Ratio of the places of two curves at the same number of tokens."""
CURVES = (
    ("passkey-base", False, "without memory", "o:k"),
    ("passkey-base", True, "base model, with memory", "s--C1"),
    ("passkey-tuned-dense", True, "tuned, with memory, all of it", "^--C2"),
    ("passkey-tuned", True, "tuned, with memory, top-k 16", "o-C0"),
)
OTHER_TEXTS = {
    "manual": ("the same, another text: manual", "D-C4"),
    "argument": ("the same, another text: argument", "v-C3"),
}
"""Curves of the texts that nothing was chosen on, by the names of their reports."""
LENGTHS = ("4k", "16k", "64k", "100k")
"""Tokens of these texts."""


def main() -> None:
    """Measure everything without a report, then draw, and fill in the pages."""
    texts = texts_given()
    rows = {
        name: measured(SHIPPED / f"{name}.json", command, texts)
        for name, command in MEASURED.items()
    }
    draw(rows | {name: on_other_text(name) for name in OTHER_TEXTS})
    passkeys, facts, perplexities = figures(rows)
    fill(CARD, FIGURES, "\n".join([passkeys, facts, perplexities]))
    fill(README, FIGURES, "\n".join([passkeys, perplexities]))


def other_report(text: str, length: str) -> Path:
    """Return the report of one length of a text that nothing was chosen on."""
    return SHIPPED / "texts" / f"{text}-{length}.json"


def on_other_text(text: str) -> list[dict[str, Any]]:
    """Read the committed reports of such a text, by length."""
    return [row for length in LENGTHS for row in measured(other_report(text, length), "", [])]


def figures(rows: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Put the figures into three tables, each with its commands."""
    found = [by_tokens(rows[name], memory=memory) for name, memory, *_ in CURVES]
    passkeys = [
        [f"{tokens:,}", *(share(one[tokens]) if tokens in one else "" for one in found)]
        for tokens in sorted({tokens for one in found for tokens in one})
    ]
    facts = [
        [row["kind"], str(row["facts"]), share(row)] for row in rows["facts-tuned"] if row["memory"]
    ]
    kinds = ("base-near", "base", "tuned", "tuned-1", "tuned-attend")
    names = [f"perplexity-{kind}" for kind in kinds]
    losses = [
        {row["tokens"]: f"{row['perplexity']:.2f}" for row in rows[name] if not row.get("sliding")}
        for name in names
    ]
    perplexities = [
        [f"{tokens:,}" if tokens else "none", *(one.get(tokens, "") for one in losses)]
        for tokens in sorted({tokens for one in losses for tokens in one})
    ]
    parts = [
        (["tokens", *(label for _, _, label, _ in CURVES)], passkeys, "passkey-"),
        (["facts in 16,384 tokens", "number", "exact match"], facts, "facts-"),
        (
            [
                *("tokens in memory", "base", "base, with the tuned model's options", "tuned"),
                *("tuned, `--temperature 1`", "tuned, `--attend`"),
            ],
            perplexities,
            "perplexity-",
        ),
    ]
    return [
        table(head, body)
        + "".join(
            f"\n    fotmem eval {command} --text FILE"
            for name, command in MEASURED.items()
            if name.startswith(kind)
        )
        + "\n"
        for head, body, kind in parts
    ]


def draw(rows: dict[str, list[dict[str, Any]]]) -> None:
    """Draw exact match against tokens, with 95% intervals."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    ticks: set[int] = set()
    others = ((name, True, *shown) for name, shown in OTHER_TEXTS.items())
    for number, (name, memory, label, style) in enumerate((*CURVES, *others)):
        curve = [row for row in rows[name] if row["memory"] == memory]
        tokens = [row["tokens"] for row in curve]
        right = [row["exact_match"] for row in curve]
        beside = [count * APART ** (number - 2.5) for count in tokens]  # or they hide each other
        axes.errorbar(beside, right, _spread(curve), fmt=style, label=label, capsize=3)
        ticks |= {round(count / 1024) for count in tokens}
    axes.set(xscale="log", xlabel="tokens of text", ylabel="exact match", ylim=(-0.04, 1.04))
    axes.set_xticks([1024 * tick for tick in sorted(ticks)], [f"{tick}k" for tick in sorted(ticks)])
    axes.minorticks_off()
    axes.legend(loc="center right", fontsize=8)
    axes.set_title("SmolLM2-135M, window 512: a five-digit number in texts not trained on")
    figure.savefig(PICTURE, dpi=120)


def _spread(rows: Sequence[dict[str, Any]]) -> list[list[float]]:
    """Return the lengths of the interval below and above."""
    ends = [(row["exact_match"], *row["exact_match_interval"]) for row in rows]
    return [
        [max(0.0, right - low) for right, low, _ in ends],
        [max(0.0, high - right) for right, _, high in ends],
    ]


if __name__ == "__main__":
    main()
