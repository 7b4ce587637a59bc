"""Text files are written whole or not at all."""

import os
from pathlib import Path

import pytest

from fotmem.files import read_text, write_text


def test_a_file_is_replaced_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "one.toml"
    write_text(file, "old é\n")
    assert read_text(file) == "old é\n"
    with pytest.raises(UnicodeEncodeError):
        write_text(file, "new, but \udcff cannot be written")
    assert read_text(file) == "old é\n"
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_text(file, "new\n")
    assert read_text(file) == "old é\n"
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_goes_on_pointing_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert read_text(tmp_path / "file") == "text"


def test_a_device_is_written_to_and_not_replaced() -> None:
    write_text(Path(os.devnull), "text")
    assert not Path(os.devnull).is_file()
    assert Path(os.devnull).exists()
