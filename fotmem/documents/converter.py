"""A process that converts a stranger's file, with little memory: reads stdin, writes JSON."""

import json
import sys
from contextlib import suppress

from fotmem.documents.html_text import html_text
from fotmem.documents.pdf_text import pdf_text
from fotmem.errors import InputError, one_line

CONVERTERS = {"HTML": html_text, "PDF": pdf_text}


def main(kind: str, memory: int) -> None:
    """Write ``{"text": ...}``, or ``{"problem": ...}``, which goes on after the file's name."""
    _limit(memory)
    try:
        answer = {"text": CONVERTERS[kind](sys.stdin.buffer.read())}
    except InputError as error:
        answer = {"problem": str(error)}
    except MemoryError:
        raise  # nothing is left to write an answer with
    except Exception as error:  # the libraries' own types of error vary
        answer = {"problem": f"is damaged ({one_line(error)[:200]}); save it anew as {kind}"}
    json.dump(answer, sys.stdout)


def _limit(memory: int) -> None:
    with suppress(ImportError, ValueError, OSError):  # such as on Windows
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (memory, most))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
