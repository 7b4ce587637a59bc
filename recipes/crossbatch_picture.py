"""Draws what current windows attend to in crossbatch training, as fotmem's attention has it.

Run by ``make pictures``. Nothing is drawn by hand: queries and keys are 0, so that all attention is
even, and values tell tokens apart, so that the output says which tokens were attended to.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from fotmem.crossbatch import longllama, paper
from fotmem.measure.bench.plot import PAGE_WIDTH
from recipes.stopping import run_recipe

PICTURE = Path("docs/crossbatch.png")
DOCUMENTS, TOKENS, BANK = 4, 5, 20
KINDS = {
    "not attended to": "#f4f4f4",
    "own window": "#5b8def",
    "own previous window: the positive": "#3aa655",
    "other previous windows: negatives": "#e0a030",
    "bank: windows of earlier steps": "#c05a5a",
}


class Panel(NamedTuple):
    """Which tokens attend to which."""

    title: str
    columns: str
    attended: Tensor
    """int64 ``[queries, keys]``: index into `KINDS`."""


def main(picture: Path = PICTURE) -> None:
    """Draw four panels, two in a row."""
    drawn = panels()
    figure = Figure(figsize=(PAGE_WIDTH, 5.6), layout="constrained")
    colors = ListedColormap(list(KINDS.values()))
    norm = BoundaryNorm(range(len(KINDS) + 1), len(KINDS))
    for axes, panel in zip(figure.subplots(2, 2).flat, drawn, strict=True):
        axes.set_ylabel("current windows")
        axes.pcolormesh(panel.attended.flip(0), cmap=colors, norm=norm, edgecolors="w", lw=0.3)
        rows, columns = panel.attended.shape
        for place in range(TOKENS, columns, TOKENS):
            axes.axvline(place, color="k", lw=0.6)
        for place in range(TOKENS, rows, TOKENS):
            axes.axhline(place, color="k", lw=0.6)
        axes.set(title=panel.title, xlabel=panel.columns, xticks=[], yticks=[], aspect="equal")
    legend = [Patch(color=color, label=kind) for kind, color in KINDS.items()]
    figure.legend(handles=legend, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(picture, dpi=140)


def panels() -> list[Panel]:
    """Compute the panels."""
    return [
        Panel("d = 1: positives only", "previous, current", _paper(d=1, bank=0)),
        Panel("d = 2", "previous, current", _paper(d=2, bank=0)),
        Panel("d = 4, and a bank", "previous, bank, current", _paper(d=4, bank=BANK)),
        Panel("LongLLaMA", "packed", _longllama()),
    ]


def _paper(*, d: int, bank: int) -> Tensor:
    """Columns: the previous windows, the bank, the current windows."""
    size = DOCUMENTS * TOKENS
    values = torch.eye(2 * size + bank)  # [tokens, D]
    zeros = torch.zeros(DOCUMENTS, TOKENS, 1, len(values))
    windows = values[: 2 * size].view(2, DOCUMENTS, TOKENS, 1, -1)
    negatives = (torch.zeros(bank, 1, len(values)), values[2 * size :, None]) if bank else None
    output = paper(zeros, zeros, windows[1], zeros, windows[0], d=d, bank=negatives)
    seen = output.view(size, -1) > 0  # [queries, keys]
    own = torch.eye(DOCUMENTS, dtype=torch.bool).repeat_interleave(TOKENS, 0)
    own = own.repeat_interleave(TOKENS, 1)
    previous = torch.where(own, 2, 3) * seen[:, :size]
    return torch.cat([previous, 4 * seen[:, 2 * size :], seen[:, size : 2 * size].long()], 1)


def _longllama() -> Tensor:
    """Two documents, each packed into two consecutive windows; both see one window back."""
    size = DOCUMENTS * TOKENS
    windows = torch.eye(size).view(DOCUMENTS, TOKENS, 1, size)
    zeros = torch.zeros_like(windows)
    output = longllama(zeros, zeros, windows, context_range=3, packing=2, stepping=False)
    seen = (output.view(size, size) > 0).long()
    entry = torch.arange(DOCUMENTS).repeat_interleave(TOKENS)
    same = entry[:, None] == entry
    document = entry // 2
    return seen * torch.where(same, 1, torch.where(document[:, None] == document, 2, 3))


if __name__ == "__main__":
    run_recipe(main)
