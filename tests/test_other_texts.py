"""How `smollm2-fot` is measured on texts that nothing was chosen on."""

from pathlib import Path

import pytest

from recipes import other_texts
from recipes.smollm2_report import CARD, OTHER_TEXTS, README

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", [CARD, README])
def test_the_pages_have_the_figures_of_the_reports(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    _, figures, _ = page.read_text("utf-8").split(other_texts.MARKER)
    assert figures.strip() == other_texts.table_of(OTHER_TEXTS).strip()
