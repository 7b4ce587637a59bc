"""Draws the losses of a training."""

from pathlib import Path

from fotmem.errors import require_packages
from fotmem.outputs import write_picture

LOSSES = {
    "loss": "training loss",
    "eval_text_loss": "loss on other text, with memory",
    "eval_text_loss_alone": "without memory",
}


def draw_losses(history: list[dict[str, float]], file: Path) -> None:
    """Draw training loss, loss on other text, and the share of answers right, as PNG."""
    require_packages("pictures", "matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    losses = figure.subplots()
    for name, label in LOSSES.items():
        steps, values = _curve(history, name)
        if steps:
            losses.plot(steps, values, label=label)
    losses.set(xlabel="step", ylabel="loss (nats per token)", ylim=(0, None))
    right = losses.twinx()
    right.plot(*_curve(history, "eval_answers_right"), "k--", label="answer tokens right")
    right.set(ylabel="share right", ylim=(0, 1.02))
    figure.legend(loc="outside lower center", ncols=2)
    write_picture(figure, file)


def _curve(history: list[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    points = [(entry["step"], entry[name]) for entry in history if name in entry]
    return [step for step, _ in points], [value for _, value in points]
