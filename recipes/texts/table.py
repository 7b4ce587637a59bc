"""The texts: what they are for, the packages they come from, and how they become plain text.

The split was written down before any training. A test text is used for reports only: no weights and
no setting may depend on it. No package is in two texts.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from recipes.texts.dialogue import crossfire, wesnoth
from recipes.texts.packed import bible, r_data, sword
from recipes.texts.pages import page_texts
from recipes.texts.plain import contents, reference_of_python

SPLITS = {"training": 3_000_000, "choosing": 6_000_000, "test": 6_000_000}
"""What a text is for, and the most characters it has: weights are trained on the first, settings
chosen on the second, figures reported on the third."""
PYTHON = "python"
"""Stands for the standard library of the running Python in place of a package."""

Sources = dict[str, tuple[str, ...]]
"""Packages, each with globs of the files to read, in the order of reading."""


class Text(NamedTuple):
    """Where a text comes from, and how it becomes plain text."""

    sources: Sources
    convert: Callable[[Iterable[Path]], str] = contents
    """Turns the files into text."""
    begin: str = ""
    """Regular expression: the text begins after its first match."""
    end: str = ""
    """Regular expression: the text ends before its next match."""
    omitted: str = ""
    """Regular expression: files with a match in their path are left out."""
    removed: str = ""
    """Regular expression of what is removed from the text."""


class Kind(NamedTuple):
    """The texts of a kind, one for each split; no two are from the same work."""

    training: Text
    choosing: Text
    test: Text


R = "usr/lib/R/site-library/*/data/Rdata.rdb"
DOC = "usr/share/doc"
ANARCHISM = f"{DOC}/anarchism/html/{{}}*[0-9].html"
RUST = "usr/src/rustc-*/library/{}/src/**/*.rs"


def campaigns(*names: str) -> Sources:
    """Return the scenarios of campaigns of Wesnoth."""
    scenarios = "usr/share/games/wesnoth/1.18/data/campaigns/*/scenarios/**/*.cfg"
    return {f"wesnoth-1.18-{name}": (scenarios,) for name in names}


KINDS = {
    "narrative": Kind(
        training=Text(  # Moby-Dick
            {"r-cran-tokenizers": (R,)},
            r_data,
            begin=r"\*\*\* START OF[^\n]*",
            end=r"End of (the )?Project Gutenberg",
        ),
        choosing=Text({"bible-kjv-text": ("usr/lib/bible.data",)}, bible, begin=r"\A.*\n"),
        test=Text({"r-cran-janeaustenr": (R,)}, r_data),  # six novels
    ),
    "argument": Kind(  # with numbers, dates and references
        training=Text(
            {
                "golang-1.24-src": ("usr/share/go-1.24/src/testdata/Isaac.Newton-Opticks.txt",),
                "debian-policy": (
                    f"{DOC}/debian-policy/policy.txt.gz",
                    f"{DOC}/debian-policy/fhs/fhs-3.0.txt.gz",
                ),
            }
        ),
        choosing=Text(
            {
                "developers-reference": ("usr/share/developers-reference/*.txt.gz",),
                "debian-faq": (f"{DOC}/debian/FAQ/debian-faq.en.txt.gz",),
                "debian-history": (f"{DOC}/debian-history/docs/*.en.txt.gz",),
                "doc-debian": (f"{DOC}/debian/*.txt*",),
            }
        ),
        test=Text({"anarchism": tuple(map(ANARCHISM.format, ("sec", "append")))}, page_texts),
    ),
    "manual": Kind(
        training=Text(
            {"postgresql-doc-17": (f"{DOC}/postgresql-doc-17/html/[a-q]*.html",)}, page_texts
        ),
        choosing=Text({"r-doc-html": ("usr/share/R/doc/manual/*.html",)}, page_texts),
        test=Text({"debian-handbook": (f"{DOC}/debian-handbook/html/en-US/*.html",)}, page_texts),
    ),
    "reference": Kind(
        training=Text({PYTHON: ("pydoc_data/topics.py",)}, reference_of_python),
        choosing=Text(  # a dictionary of computing
            {"dict-foldoc": ("usr/share/dictd/foldoc.dict.dz",)},
            begin=r"\n(?=Acknowledgements\n)",
            end=r"\n[^\n]*\n\s*\Z",
        ),
        test=Text(  # a dictionary of English
            {"dict-gcide": ("usr/share/dictd/gcide.dict.dz",)},
            begin=r"\n(?=0 \\0)",
            removed=r"(?m)^\s*\[(?:1913 Webster|PJC|WordNet 1\.5(?: \+PJC)?|RDH)\]\n",
        ),
    ),
    "code": Kind(
        training=Text({PYTHON: ("*.py",)}),
        choosing=Text(
            {"perl-modules-5.40": ("usr/share/perl/**/*.pm",)},
            omitted=r"/(Unicode|unicore|CPAN)/|/CoreList\.pm$",  # tables
        ),
        test=Text(
            {"rust-src": tuple(map(RUST.format, ("alloc", "core", "std")))},
            omitted="/unicode/",  # tables
        ),
    ),
    "tables": Kind(  # and logs
        training=Text(
            {
                "ieee-data": ("usr/share/ieee-data/oui36.txt",),
                "dpkg": (f"{DOC}/dpkg/changelog.gz",),
                "tzdata": ("usr/share/zoneinfo/tzdata.zi",),
            }
        ),
        choosing=Text(
            {
                "unicode-data": ("usr/share/unicode/NamesList.txt",),
                "apt": (f"{DOC}/apt/changelog.gz",),
                "iso-codes": ("usr/share/iso-codes/json/iso_3166-2.json",),
            }
        ),
        test=Text(
            {
                "pci.ids": ("usr/share/misc/*",),
                "usb.ids": ("usr/share/misc/*",),
                "fail2ban": ("usr/lib/python3/dist-packages/fail2ban/tests/files/logs/*",),
            }
        ),
    ),
    "dialogue": Kind(  # campaigns of Wesnoth have authors and characters of their own
        training=Text({"crossfire-maps": ("usr/share/games/crossfire/maps/**/*",)}, crossfire),
        choosing=Text(campaigns("dm", "sof", "sotbe", "low", "thot", "tsg"), wesnoth),
        test=Text(
            campaigns("utbs", "httt", "ei", "nr", "trow", "wof", "did", "dw", "l", "sota", "ttb"),
            wesnoth,
        ),
    ),
    "foreign": Kind(  # French, Spanish, German
        training=Text({"debian-reference-fr": (f"{DOC}/debian-reference-common/docs/*.txt.gz",)}),
        choosing=Text(
            {"sword-text-sparv": ("usr/share/sword/modules/texts/ztext/*/*.bzs",)}, sword
        ),
        test=Text(
            {"libreoffice-help-de": ("usr/share/libreoffice/help/de/text/**/*.html",)}, page_texts
        ),
    ),
}
