"""PDFs as text, also a stranger's: encrypted, damaged, scanned, and bombs."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pypdf import PdfWriter
from pypdf.generic import (
    ArrayObject,
    DecodedStreamObject,
    DictionaryObject,
    NameObject,
    StreamObject,
    TextStringObject,
)

from fotmem.documents import conversion, load_documents, pdf_text
from fotmem.errors import InputError

FONT = {
    "/Type": "/Font",
    "/Subtype": "/Type1",
    "/BaseFont": "/Helvetica",
    "/Encoding": "/WinAnsiEncoding",
}


def names(given: dict[str, str]) -> DictionaryObject:
    return DictionaryObject({NameObject(key): NameObject(name) for key, name in given.items()})


def stream(content: bytes, **entries: str) -> StreamObject:
    made = DecodedStreamObject()
    made.set_data(content)
    made.update(names({f"/{key}": name for key, name in entries.items()}))
    return made.flate_encode()


def line(text: str) -> bytes:
    return f"BT /F 12 Tf 10 100 Td ({text}) Tj ET ".encode("latin-1")


def pdf(*pages: bytes) -> Any:
    """Build a PDF of pages with these contents."""
    writer = PdfWriter()
    fonts = DictionaryObject({NameObject("/F"): writer._add_object(names(FONT))})
    for content in pages:
        page = writer.add_blank_page(300, 300)
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        page[NameObject("/Contents")] = writer._add_object(stream(content))
    return writer


def saved(writer: Any, path: Path) -> Path:
    writer.write(path)
    return path


def text(path: Path) -> str:
    [document] = load_documents(path)
    assert document.name == str(path)
    return document.text


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        list(load_documents(path))
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.pdf"


def test_pages_stand_one_after_the_other(path: Path) -> None:
    saved(pdf(line("A captain"), b"", line("came \xe9 home")), path)
    assert text(path) == "A captain\n\ncame é home"


def test_something_may_stand_before_a_pdf(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Of which pypdf warns."""
    saved(pdf(line("A captain")), path)
    path.write_bytes(b"\r\n\r\n" + path.read_bytes())
    assert text(path) == "A captain"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("algorithm", ["RC4-128", "AES-256"])
def test_a_pdf_that_only_its_owner_may_change_is_read(algorithm: str, path: Path) -> None:
    writer = pdf(line("A captain"))
    writer.encrypt("", "owner", algorithm=algorithm)
    assert text(saved(writer, path)) == "A captain"


@pytest.mark.parametrize("algorithm", ["RC4-128", "AES-256"])
def test_a_pdf_with_a_password_is_refused(algorithm: str, path: Path) -> None:
    writer = pdf(line("A captain"))
    writer.encrypt("secret", algorithm=algorithm)
    assert "needs a password; save a copy without one" in refusal(saved(writer, path))


def test_a_scan_is_refused(path: Path) -> None:
    message = refusal(saved(pdf(b"0 0 300 300 re f", b""), path))
    assert "has no text on any page, as a scan has; let a program for text recognition" in message


def test_a_pdf_without_pages_is_refused(path: Path) -> None:
    assert "has no pages" in refusal(saved(PdfWriter(), path))


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_a_part_of_a_pdf_is_refused(share: float, path: Path) -> None:
    content = saved(pdf(line("A captain")), path).read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    message = refusal(path)
    assert " is damaged (" in message
    assert message.endswith("; save it anew as PDF")


def test_what_is_not_a_pdf_is_refused(path: Path) -> None:
    assert "cannot be read: No such file" in refusal(path)
    path.touch()
    assert "is empty" in refusal(path)
    path.write_text("A captain.")
    assert "is not a PDF; give it the ending of what it is" in refusal(path)
    path.unlink()
    path.mkdir()
    assert "has no documents" in refusal(path)


def test_half_characters_are_repaired(path: Path) -> None:
    """Which a font leads to that names half of a surrogate pair."""
    writer = pdf(line("A captain"))
    mapping = stream(
        b"1 begincodespacerange <00> <FF> endcodespacerange "
        b"2 beginbfchar <41> <D800> <63> <0000> endbfchar"
    )
    [page] = writer.pages
    page["/Resources"]["/Font"]["/F"][NameObject("/ToUnicode")] = writer._add_object(mapping)
    assert text(saved(writer, path)) == "\ufffd aptain"


# Bombs


@pytest.mark.parametrize("times", [1, 2])
def test_a_stream_that_unpacks_to_too_much_is_refused(times: int, path: Path) -> None:
    """Packed once, or twice."""
    writer = pdf(b"")
    content = stream(line("A captain") + b" " * 10**8)
    if times == 2:
        content = content.flate_encode()
    writer.pages[0][NameObject("/Contents")] = writer._add_object(content)
    assert "exceeds a limit of pypdf (" in refusal(saved(writer, path))
    assert path.stat().st_size < [200_000, 4_000][times - 1]


def test_many_streams_that_unpack_to_much_are_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "MEMORY", 100 * 2**20)
    assert text(saved(pdf(line("A captain")), path)) == "A captain"
    content = line("A captain") + b"%" + b" " * 2**24
    assert "takes more than 100 MiB of RAM to read" in refusal(saved(pdf(*[content] * 9), path))


def test_forms_that_repeat_forms_end(path: Path) -> None:
    """Ten forms that each show the next ten times: a thousand million lines."""
    writer = pdf(line("A captain") + b"/X Do")
    form = stream(line("sails"), Type="/XObject", Subtype="/Form")
    resources = writer.pages[0]["/Resources"]
    form[NameObject("/Resources")] = resources
    for _ in range(9):
        inner = DictionaryObject({NameObject("/X"): writer._add_object(form)})
        form = stream(b"/X Do " * 10, Type="/XObject", Subtype="/Form")
        form[NameObject("/Resources")] = DictionaryObject({NameObject("/XObject"): inner})
    outer = DictionaryObject({NameObject("/X"): writer._add_object(form)})
    resources[NameObject("/XObject")] = outer
    found = text(saved(writer, path))
    assert found.startswith("A captain")
    assert len(found) < 100_000


def test_pages_in_a_circle_are_refused(path: Path) -> None:
    writer = pdf(line("A captain"))
    tree = writer._root_object["/Pages"].get_object()
    tree["/Kids"].append(tree.indirect_reference)
    assert "is damaged (PdfReadError: Detected cyclic" in refusal(saved(writer, path))


@pytest.mark.parametrize("opened", [b"[", b"<<", b"("])
def test_deep_objects_end(opened: bytes, path: Path) -> None:
    content = line("A captain") + opened * 100_000
    with suppress(InputError):
        assert text(saved(pdf(content), path)) == "A captain"


def test_too_many_characters_are_refused(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.setattr(pdf_text, "LONGEST", 15)
    content = saved(pdf(line("A captain"), line("came home")), path).read_bytes()
    with pytest.raises(InputError, match="has more than 15 characters; split it"):
        pdf_text.pdf_text(content)


def test_strings_of_a_title_are_not_text(path: Path) -> None:
    writer = pdf(line("A captain"))
    writer.add_metadata({"/Title": "Hidden"})
    writer.pages[0][NameObject("/Annots")] = ArrayObject([TextStringObject("Hidden")])
    assert text(saved(writer, path)) == "A captain"
