"""The picture that explains crossbatch says what crossbatch does."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[1] / "recipes" / "crossbatch_picture.py"


@pytest.fixture(scope="module")
def picture() -> Any:
    spec = importlib.util.spec_from_file_location("crossbatch_picture", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("place", "d", "bank"), [(0, 1, 0), (1, 2, 0), (2, 4, 20)])
def test_panels_of_the_paper(picture: Any, place: int, d: int, bank: int) -> None:
    attended = picture.panels()[place].attended
    assert attended.shape == (20, 40 + bank)
    for query in range(20):
        for key in range(40 + bank):
            document, token = divmod(query, 5)
            if key < 20:
                distance = (key // 5 - document) % 4
                expected = 0 if distance >= d else 3 if distance else 2
            elif key < 20 + bank:
                expected = 4
            else:
                other, position = divmod(key - 20 - bank, 5)
                expected = int(other == document and position <= token)
            assert attended[query, key] == expected, (query, key)


def test_panel_of_longllama(picture: Any) -> None:
    attended = picture.panels()[3].attended
    blocks = attended.view(4, 5, 4, 5)[:, -1, :, 0].tolist()  # last query, first key
    assert blocks == [[1, 0, 0, 0], [2, 1, 0, 0], [3, 3, 1, 0], [3, 3, 2, 1]]


def test_it_is_drawn(picture: Any, tmp_path: Path) -> None:
    picture.main(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert picture.PICTURE.name in (FILE.parents[1] / "docs" / "crossbatch.md").read_text()
