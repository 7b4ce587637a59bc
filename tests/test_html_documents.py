"""HTML pages as text: what a browser shows of them, also of a stranger's."""

import html
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fotmem.documents import conversion, load_documents
from fotmem.documents.html_text import html_text
from fotmem.errors import InputError


def shown(page: str) -> str:
    return html_text(page.encode())


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        list(load_documents(path))
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


PAGE = """<!doctype html>
<html><head><title>Tab</title><style>p {color: red}</style><script>run("<p>no")</script></head>
<body>
<h1>Big &amp; <em>old</em> ships</h1>
<p>The captain
   came&nbsp;home,<br>at last.<p>He was <b>ti</b>red.
<ul><li>one<li>two</ul>
<table><tr><td>a<td>b<tr><th>c</th><th>d</th></tr></table>
<pre>
 as
   it is</pre>after<!-- a comment -->
</body></html>"""
TEXT = """Big & old ships

The captain came home,
at last.

He was tired.

one
two

a\tb
c\td

 as
   it is

after"""


@pytest.mark.parametrize("name", ["a.html", "a.htm", "a.xhtml", "A.HTML"])
def test_a_page_is_read_as_a_browser_shows_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(PAGE)
    [document] = load_documents(path)
    assert (document.name, document.text) == (str(path), TEXT)


@given(text=st.text(st.characters(exclude_categories=["C", "Z"])))
def test_what_is_escaped_comes_back(text: str) -> None:
    assert shown(f"<p>before<p>{html.escape(text)} <p>after").split("\n\n") == [
        "before", *filter(None, [text]), "after",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "hidden",
    [
        "<script>no</script>",
        "<SCRIPT type=x>no</SCRIPT >",
        "<style>no</style>",
        "<template><p>no</template>",
        "<noscript>no</noscript>",
        "<div hidden>no<p>no</div>",
        "<p hidden=until-found>no",
        "<div style='DISPLAY : none ! important'><b>no</b></div>",
        "<div style='color:red;display:/* a */none'>no</div>",
        "<span style=visibility:hidden>no</span>",
        "<span style=visibility:collapse>no</span>",
        "<span style=content-visibility:hidden>no</span>",
        "<span style='opacity: 0.0'>no</span>",
        "<span style='font-size:0px'>no</span>",
        "<dialog>no</dialog>",
        "<svg><title>no</title><desc>no</desc></svg>",
        "<select><option>no</select>",
        "<iframe srcdoc='no'>no</iframe>",
        "<!-- no -->",
        "<p title=no alt=no><img alt=no>",
    ],
)
def test_what_is_hidden_is_left_out(hidden: str) -> None:
    assert shown(f"<p>before {hidden}<p>after").split() == ["before", "after"]


@pytest.mark.parametrize(
    "seen",
    [
        "<dialog open>yes</dialog>",
        "<details><summary>yes</summary></details>",
        "<span style='opacity:0.5;display:block'>yes</span>",
        "<textarea>yes</textarea>",
        "<svg><text>yes</text></svg>",
        "<p hidden>no<p>yes",
    ],
)
def test_what_is_shown_is_kept(seen: str) -> None:
    assert shown(f"<p>before {seen}<p>after").split() == ["before", "yes", "after"]


def test_lines() -> None:
    assert shown("a<br>b<br><br><br><br>c") == "a\nb\n\nc"
    assert shown("<div>a</div><div>b <i> c</i> d</div>") == "a\nb c d"
    assert shown("so\xadft<p>\n\n<p>\n") == "soft"


# Encodings


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("<p>é</p>".encode(), "é"),
        (b"\xef\xbb\xbf<meta charset=latin1><p>\xc3\xa9", "é"),
        ("\ufeff<p>é".encode("utf-16-le"), "é"),
        ("\ufeff<p>é".encode("utf-16-be"), "é"),
        (b'<meta charset="iso-8859-1"><p>\xe9\x80', "é€"),
        (b"<meta http-equiv=a content='text/html; charset=koi8-r'><p>\xd6", "ж"),
        (b'<?xml version="1.0" encoding="Shift_JIS"?><p>\x82\xa0', "あ"),
        ("<meta charset=utf-16><p>é".encode(), "é"),
    ],
)
def test_a_page_says_its_encoding(content: bytes, text: str) -> None:
    assert html_text(content) == text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"<p>\xe9", r"is not utf-8 \(byte 3\), and declares no other encoding; save it as UTF-8"),
        (b"<meta charset=utf-8><p>\xe9", r"is not utf-8 \(byte 23\), which it declares"),
        (b"\xef\xbb\xbf<p>\xe9", r"is not utf-8 \(byte 3\), as its byte order mark says"),
        (b"<meta charset=rot13><p>a", "declares the encoding 'rot13', which is not known"),
        (b"<meta charset=idna><p>a", "declares the encoding 'idna', which is not known"),
        (b"<meta charset=none><p>a", "declares the encoding 'none', which is not known"),
        (b"<p>a\0b", "is binary, not HTML"),
        (b"<script>write()</script>", "has no visible text; if scripts write it, save the page"),
    ],
)
def test_what_cannot_be_read_is_named(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_bytes(content)
    with pytest.raises(InputError, match=reason):
        list(load_documents(path))
    refusal(path)


def test_missing_files_folders_and_devices(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in refusal(tmp_path / "missing.html")
    (tmp_path / "device.html").symlink_to("/dev/zero")
    assert "is larger than 33,554,432 bytes" in refusal(tmp_path / "device.html")
    (tmp_path / "folder.html").mkdir()
    assert "has no documents" in refusal(tmp_path / "folder.html")


def test_a_pipe_is_read(tmp_path: Path) -> None:
    end, other = os.pipe()
    os.write(other, b"<p>A captain.")
    os.close(other)
    (tmp_path / "pipe.html").symlink_to(f"/dev/fd/{end}")
    assert [each.text for each in load_documents(tmp_path / "pipe.html")] == ["A captain."]
    os.close(end)


# Bombs


def test_deep_elements_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_text("<div>" * 9_990 + "text")
    assert [document.text for document in load_documents(path)] == ["text"]
    path.write_text("<div>" * 10_010 + "text")
    assert "has more than 10,000 nested elements; repair the page" in refusal(path)


def test_a_page_that_grows_when_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each paragraph repeats all bold elements: 40 kB become 4 GB."""
    monkeypatch.setattr(conversion, "MEMORY", 100 * 2**20)
    path = tmp_path / "a.html"
    path.write_text(PAGE)
    assert [document.text for document in load_documents(path)] == [TEXT]
    bold = "".join(f"<b id={number}>" for number in range(3000))
    path.write_text(f"<p>{bold}" + "<p>x" * 3000)
    assert "takes more than 100 MiB of RAM to read, or ended the process" in refusal(path)


def test_a_page_that_takes_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "SECONDS", 0)
    (tmp_path / "a.html").write_text(PAGE)
    assert "takes more than 0 seconds to read; split it" in refusal(tmp_path / "a.html")


def test_nothing_of_the_folder_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's folder may have modules with the names of Python's."""
    monkeypatch.chdir(tmp_path)
    for name in ("json", "html", "justhtml"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(7)")
    (tmp_path / "a.html").write_text(PAGE)
    assert [document.text for document in load_documents("a.html")] == [TEXT]
