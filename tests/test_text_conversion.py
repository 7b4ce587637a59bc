"""How text is got out of pages, packed data and the scripts of games."""

import gzip
import struct
import zlib
from pathlib import Path

import pytest

from fotmem.errors import InputError
from recipes.texts.dialogue import crossfire, wesnoth
from recipes.texts.packed import bible, r_data, sword
from recipes.texts.pages import PageText, page_texts
from recipes.texts.plain import between, contents, without_repeats

LICENCE = "This text may be copied, changed and sold by anyone who keeps this line as it is."


def written(folder: Path, **files: str) -> list[Path]:
    for name, content in files.items():
        (folder / name).write_text(content)
    return [folder / name for name in files]


def test_a_page_becomes_its_paragraphs() -> None:
    page = (
        "<head><title>no</title></head><h1>One</h1><p>two\n  <b>words</b> &amp; more</p>"
        "<script>no</script><ul><li>three<li>four</ul>"
    )
    assert PageText(page).paragraphs() == ["One", "two words & more", "three", "four"]
    page = (
        '<div class="navheader x"><hr><table><tr><td>no<br>no</table></div>'
        "<table><tr><td>3<td>5</table><pre>a = 1\n  b = 2</pre><p>twice<p>twice"
    )
    assert PageText(page).paragraphs() == ["3 | 5", "a = 1\n  b = 2", "twice"]


def test_what_many_pages_share_is_navigation(tmp_path: Path) -> None:
    pages = {f"{place}.html": f"<p>page {place}</p><p>next</p>" for place in range(4)}
    text = page_texts(written(tmp_path, **pages, last="<p>page 0</p>"))
    assert text.split("\n\n") == ["page 0", "page 1", "page 2", "page 3", "page 0"]


def test_files_are_decoded(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "two.txt.gz").write_bytes(gzip.compress("é".encode()))
    assert contents(sorted(tmp_path.iterdir())) == "é\n\né"


def test_a_licence_is_kept_once() -> None:
    repeated = f"{LICENCE}\n\none\n \n\n{LICENCE.replace(' ', '  ')}\n\none\r\n"
    assert without_repeats(repeated) == f"{LICENCE}\n\none\n\none\n"


def test_the_beginning_and_the_end_are_cut() -> None:
    assert between("end head A text end tail", "head ", " end") == "A text"
    assert between("A text", "", "") == "A text"
    with pytest.raises(InputError, match=r"no match of 'z\+': adapt recipes/texts/table.py"):
        between("A text", "", "z+")


def test_data_of_r(tmp_path: Path) -> None:
    """A lazy-load database of two character vectors; one element is missing."""

    def packed(*strings: bytes | None) -> bytes:
        body = b"X" + bytes(22) + struct.pack(">ii", 16, len(strings))
        for one in strings:
            body += struct.pack(">ii", 9, -1 if one is None else len(one)) + (one or b"")
        return struct.pack(">i", len(body)) + zlib.compress(body)

    file = tmp_path / "Rdata.rdb"
    file.write_bytes(packed(b"\xef\xbb\xbfEMMA", b"", "é".encode()) + packed(b"two", None, b"4"))
    assert r_data([file]) == "EMMA\n\né\n\ntwo\n\n4"


def test_the_bible(tmp_path: Path) -> None:
    """Two blocks in LZW, whose first codes have 9 bits, the lowest bit first."""

    def compressed(text: str) -> bytes:
        bits = sum(ord(letter) << (9 * place) for place, letter in enumerate(text))
        return bits.to_bytes(-(-9 * len(text) // 8), "little")

    first, second = compressed("Ge1:1 In the\n1Jo2:13 I wr"), compressed("ite\n")
    places = (0x5C + 12, 0x5C + 12 + len(first), 2**31)  # no place, so the list ends
    file = tmp_path / "bible.data"
    file.write_bytes(bytes(0x5C) + struct.pack(">3I", *places) + first + second)
    assert bible([file]) == "In the\nI write\n"


def test_a_sword_module(tmp_path: Path) -> None:
    old, new = ["<title>Génesis</title>", "<w x='1'>EN</w> el"], ["<chapter n='1'/>Libro"]
    for testament, texts in (("ot", old), ("nt", new)):
        index = content = b""
        for text in texts:
            packed = zlib.compress(text.encode())
            index += struct.pack("<III", len(content), len(packed), len(text.encode()))
            content += packed
        (tmp_path / f"{testament}.bzs").write_bytes(index)
        (tmp_path / f"{testament}.bzz").write_bytes(content)
    assert sword(tmp_path.glob("*.bzs")).split("\n") == ["", "Génesis", "EN el", "", "Libro"]


def test_a_scenario_of_wesnoth(tmp_path: Path) -> None:
    scenario = """
    [part]
        story= _ "Long ago, <i>in the woods</i>..."
    [/part]
    [unit]
        id=zhul
        name= _ "Zhul the Wise"
        description= _ "not said"
    [/unit]
    [message]
        speaker=zhul
        message= _ "He said: ""Run!"" and ran."
    [/message]
    [message]
        speaker=narrator
        message= _ "You can now recruit magi!"
    [/message]
    [message]
        speaker=second_unit
        #po: not said
        message= _ "Two
lines"
    [/message]
    """
    assert wesnoth(written(tmp_path, one=scenario)).split("\n\n") == [
        "Long ago, in the woods...",
        'Zhul the Wise: He said: "Run!" and ran.',
        "You can now recruit magi!",
        "Second unit: Two\nlines",
    ]


def test_a_map_of_crossfire(tmp_path: Path) -> None:
    mapped = """arch wall
x 1
end
arch sign
msg
Nobody says this.
endmsg
end
arch old_man
name Ulote
x 2
msg
@match scorn|city
A city.
@match *
@question scorn What about Scorn?
Hello.
endmsg
y 2
end
arch guard
msg
@match pass
No!
endmsg
end
"""
    assert crossfire(written(tmp_path, one=mapped)).split("\n\n") == [
        "Ulote: Hello.",
        "You: What about Scorn?",
        "Ulote: A city.",
        "You: pass",
        "Guard: No!",
    ]
