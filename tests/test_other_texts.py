"""How `smollm2-fot` is measured on texts that nothing was chosen on."""

from pathlib import Path

import pytest

from recipes import other_texts
from recipes.plain_text import PageText, main
from recipes.smollm2_report import CARD, OTHER_TEXTS, README

ROOT = Path(__file__).parents[1]


def test_a_page_becomes_its_paragraphs() -> None:
    page = (
        "<head><title>no</title></head><h1>One</h1><p>two\n  <b>words</b> &amp; more</p>"
        "<script>no</script><ul><li>three<li>four</ul>"
    )
    assert PageText(page).paragraphs() == ["One", "two words & more", "three", "four"]


def test_pages_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 9, 1):
        (tmp_path / f"page{number}.html").write_text(f"<p>{number}</p>")
    main(f"{tmp_path}/page*.html", str(tmp_path / "book.txt"))
    assert (tmp_path / "book.txt").read_text() == "1\n\n9\n\n10\n"
    with pytest.raises(SystemExit, match="no file matches"):
        main(f"{tmp_path}/none*.html", str(tmp_path / "book.txt"))


@pytest.mark.parametrize("page", [CARD, README])
def test_the_pages_have_the_figures_of_the_reports(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    _, figures, _ = page.read_text("utf-8").split(other_texts.MARKER)
    assert figures.strip() == other_texts.table_of(OTHER_TEXTS).strip()
