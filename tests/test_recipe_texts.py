"""The texts that models are trained, chosen and tested on: how they are made of packages."""

import json
from collections import defaultdict
from pathlib import Path

import pytest

from fotmem.errors import InputError
from recipes.texts import __main__ as command
from recipes.texts import making
from recipes.texts.making import files_of, make, notes, plain
from recipes.texts.packages import Package, unpack
from recipes.texts.table import KINDS, SPLITS, Kind, Text

ROOT = Path(__file__).parents[1]


def test_there_are_eight_kinds_and_no_package_is_in_two_splits() -> None:
    assert len(KINDS) == 8
    splits: dict[str, set[str]] = defaultdict(set)
    for kind in KINDS.values():
        for split, text in kind._asdict().items():
            for package in text.sources:
                splits[package].add(split)
    assert {package: used for package, used in splits.items() if len(used) > 1} == {}
    assert {*SPLITS} == {*Kind._fields}
    assert splits["bible-kjv-text"] == {"choosing"}  # settings were chosen on it


def test_the_page_names_every_package() -> None:
    page = (ROOT / "docs/texts.md").read_text("utf-8")
    for kind, texts in KINDS.items():
        for split, text in texts._asdict().items():
            (row,) = (line for line in page.splitlines() if line.startswith(f"| {kind} | {split} "))
            for package in text.sources:
                assert package.replace("wesnoth-1.18-", "") in row, (kind, split)


@pytest.fixture
def package(tmp_path: Path) -> Package:
    """Return a package with files of a documentation."""
    folder = tmp_path / "package"
    (folder / "old").mkdir(parents=True)
    for name, content in (("page10", "page 10\n"), ("page9", "page 9\n"), ("old/page8", "page 8\n"),
                          ("old/more", "[1]\nmore\n")):  # fmt: skip
        (folder / f"{name}.txt").write_text(content)
    return Package(folder, "1.2-3")


def test_files_come_in_the_order_of_the_table_and_of_their_numbers(package: Package) -> None:
    text = Text({"doc": ("old/*.txt", "*.txt")}, omitted="/more")
    names = [file.name for file in files_of(text, {"doc": package})]
    assert names == ["page8.txt", "page9.txt", "page10.txt"]
    missing = Text({"doc": ("*.html",)})
    with pytest.raises(InputError, match=r"doc 1\.2-3 has no file \*\.html: adapt recipes/"):
        plain(missing, {"doc": package})


def test_what_is_removed(package: Package) -> None:
    text = Text({"doc": ("old/*.txt",)}, end="page", removed=r"\[\d\]\n")
    assert plain(text, {"doc": package}) == "more\n"


def test_a_text_is_made_once(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def unpacked(name: str, folder: Path) -> Package:
        assert folder.is_dir()
        asked.append(name)
        return package

    text = Text({"doc": ("page*.txt",)})
    monkeypatch.setattr(making, "unpack", unpacked)
    monkeypatch.setattr(making, "KINDS", {"manual": Kind(text, text, text)})
    monkeypatch.setattr(making, "SPLITS", SPLITS | {"test": 9})
    folder = tmp_path / "texts"
    made = make("manual", "test", folder)
    assert (folder / "test/manual.txt").read_text() == "page 9\n\np"
    assert make("manual", "test", folder) == made
    assert asked == ["doc"]
    noted = json.loads((folder / "texts.json").read_text())["test/manual"]
    digest = "73d41196ef58d6572350d53f0de6019b83efc3bb7233f3cfef572656b4e94405"
    assert noted == {"characters": 9, "sha256": digest, "versions": {"doc": "1.2-3"}}
    make("manual", "training", folder)
    assert notes(folder).keys() == {"test/manual", "training/manual"}
    (folder / "test/manual.txt").unlink()
    make("manual", "test", folder)
    assert asked == ["doc"] * 3
    assert sorted(each.name for each in folder.iterdir()) == ["test", "texts.json", "training"]


@pytest.mark.parametrize("content", ["", "[]", '{"test/manual": {"characters": 9}}'])
def test_damaged_notes_are_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "texts.json").write_text(content)
    with pytest.raises(InputError, match=r"texts\.json is not what .*: move it away; make texts"):
        notes(tmp_path)


def commands(folder: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    """Put commands on the path in place of all others."""
    folder.mkdir()
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_a_package_is_downloaded_and_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    field, extract = (
        "--field) echo 1.2-3;;",
        '--extract) read -r line < "$2"; echo "$line" > "$3/usr";;',
    )
    scripts = {
        "apt-get": 'echo "$@" > "$3_1.2-3_all.deb"',
        "dpkg-deb": f'case "$1" in {field} {extract} esac',
    }
    commands(tmp_path / "bin", monkeypatch, **scripts)
    package = unpack("doc", tmp_path)
    assert package == Package(tmp_path / "doc", "1.2-3")
    assert {file.name: file.read_text() for file in package.folder.iterdir()} == {
        "usr": "download --quiet doc\n"
    }


def test_without_apt_or_network_the_error_names_package_and_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands(tmp_path / "none", monkeypatch)
    with pytest.raises(InputError, match=r"package doc .* no apt-get; .* Debian or Ubuntu"):
        unpack("doc", tmp_path / "one")
    commands(tmp_path / "bin", monkeypatch, **{"apt-get": "echo E: no network >&2; exit 100"})
    with pytest.raises(InputError, match=r"doc cannot .* says: E: no network; .* apt-get update"):
        unpack("doc", tmp_path / "two")


def test_the_command_names_the_text_that_it_cannot_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands(tmp_path / "none", monkeypatch)
    with pytest.raises(SystemExit, match=r"^training/narrative: the package r-cran-tokenizers "):
        command.main(tmp_path / "texts")
    assert not list((tmp_path / "texts").rglob("*.*"))
