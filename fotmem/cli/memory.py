"""``fotmem memory verify``, ``repair`` and ``compact``."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fotmem.cli.command import Command
from fotmem.cli.options import Json
from fotmem.cli.printable import printable, printable_name

if TYPE_CHECKING:
    from fotmem.directory.damage import Verified

app = typer.Typer(no_args_is_help=True)
Directory = Annotated[
    str, typer.Argument(metavar="DIR", help="The directory of a memory, as fotmem read writes it.")
]


@app.callback()
def _group() -> None:
    """Check, mend and compact a memory's directory.

    Example: fotmem memory verify handbook
    """


@app.command(cls=Command)
def verify(directory: Directory, as_json: Json = False) -> None:
    """Read all that is under a checksum, and list what is damaged.

    Nothing is changed. The exit code is 1 if anything is damaged.

    Example: fotmem memory verify handbook
    """
    from fotmem.directory.verify import verify

    found = verify(directory, progress=True)
    if as_json:
        print(json.dumps(_report(found), indent=2))
    else:
        _show(found, "would be lost")
        if any(each.group for each in found.damages):
            cure = f"fotmem memory repair {printable(found.name)}"
            print(f"next: {cure} drops what is damaged, and keeps the rest")
    if found.damages:
        raise typer.Exit(1)


@app.command(cls=Command)
def repair(directory: Directory) -> None:
    """Remove the documents that have damaged tokens, keys or values; keep all others.

    Read them again afterwards. Stopped halfway, the directory is as it was.

    Example: fotmem memory repair handbook
    """
    from fotmem.directory.repair import repair

    _show(repair(directory, progress=True), "is lost, read it again")


@app.command(cls=Command)
def compact(directory: Directory) -> None:
    """Free the space of removed documents.

    What is left is written again, which takes as much free space. Stopped halfway, the directory is
    as it was. A damaged memory must be repaired first.

    Example: fotmem memory compact handbook
    """
    from fotmem.directory.compact import compact

    found = compact(directory, progress=True)
    if found.dropped_documents:
        removed = _counted(found.dropped_documents, "removed document")
        freed = "" if found.freed_bytes is None else f", freed {found.freed_bytes:,} bytes"
        print(f"dropped {removed} of {_counted(found.dropped_tokens, 'token')}{freed}")
    else:
        print("nothing to do: no document was removed")
    left = f"{_counted(found.tokens, 'token')}, {_counted(found.documents, 'document')}"
    print(f"{printable(found.name)}: {left}")


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _show(found: "Verified", fate: str) -> None:
    from fotmem.directory.damage import RESTORE

    for damage in found.damages:
        rows = f" (tokens {damage.first:,} to {damage.stop - 1:,})"
        remedy = "" if damage.group else f"; {damage.remedy}"
        text = f"{damage.problem}{rows if damage.first < damage.stop else ''}{remedy}"
        print(printable(text))
    for each in found.lost:
        name = printable_name(each.name) or "a document without a name"
        print(f"{name}: {_counted(len(each), 'token')}, {fate}")
    number = len(found.damages)
    state = "nothing is damaged" if not number else f"{number:,} damaged"
    documents = sum(not each.is_removed for each in found.documents)
    name = printable(found.name)
    if any(each.remedy == RESTORE for each in found.damages):
        print(f"{name}: {state}; its tokens and documents are not known")
        return
    held = f"{_counted(found.tokens, 'token')}, {_counted(documents, 'document')}"
    print(f"{name}: {held}, {state}")


def _report(found: "Verified") -> dict[str, Any]:
    damages = [
        {
            "problem": each.problem,
            "file": each.file,
            "tokens": [each.first, each.stop] if each.first < each.stop else None,
            "remedy": each.remedy,
        }
        for each in found.damages
    ]
    lost = [{"document": each.name, "tokens": len(each)} for each in found.lost]
    documents = sum(not each.is_removed for each in found.documents)
    numbers = {"tokens": found.tokens, "documents": documents}
    return {"memory": found.name, **numbers, "damages": damages, "lost": lost}
