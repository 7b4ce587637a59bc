"""Dialogues of games, written as plays: who speaks, then what is said."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from recipes.texts.plain import decoded

SAID = re.compile(
    r'^\s*(?:speaker\s*=\s*"?(?P<speaker>[^"\n]*)"?|\[(?P<part>part)\]'
    r'|(?:message|story)\s*=\s*_\s*"(?P<said>(?:[^"]|"")*)")',
    re.MULTILINE,
)
NAMED = re.compile(r'^\s*id\s*=\s*"?([^"\n]+)"?\n\s*name\s*=\s*_\s*"([^"]+)"', re.MULTILINE)
"""The id of somebody, and the name on the next line."""
MAPPED = re.compile(r"^arch (\S+)\n((?:(?!^(?:arch|end)\b).*\n)*?)^msg\n((?:.*\n)*?)endmsg$", re.M)
"""Somebody or something in a map: what it is, its properties, and its message."""


def wesnoth(files: Iterable[Path]) -> str:
    """Return what is said and told in campaigns of Wesnoth."""
    return "\n\n".join(line for file in files for line in wesnoth_lines(decoded(file)))


def wesnoth_lines(scenario: str) -> Iterator[str]:
    """Yield `NAME: what is said`; what a narrator tells has no name."""
    names, speaker = dict(NAMED.findall(scenario)), ""
    for one in SAID.finditer(scenario):
        if one["said"] is None:
            speaker = "" if one["part"] else one["speaker"].strip()
            continue
        said = re.sub(r"<[^>]*>", "", one["said"].replace('""', '"')).strip()
        nameless = speaker in {"", "narrator"} or "$" in speaker
        yield said if nameless else f"{named(names.get(speaker, speaker))}: {said}"


def crossfire(files: Iterable[Path]) -> str:
    """Return what those who answer to a word say in maps of Crossfire."""
    return "\n\n".join(line for file in files for line in crossfire_lines(decoded(file)))


def crossfire_lines(mapped: str) -> Iterator[str]:
    """Yield `NAME: answer`, after `You: question`; first the greeting, which matches any word."""
    for kind, properties, message in MAPPED.findall(mapped):
        own = re.search(r"^name (.+)$", properties, re.MULTILINE)
        name = named(own[1] if own else kind)
        asked = dict(re.findall(r"^@(?:question|reply) (\S+) (.+)$", message, re.MULTILINE))
        _, *parts = re.split(r"^@match (.*)$", message, flags=re.MULTILINE)
        for words, answer in reversed(list(zip(parts[::2], parts[1::2], strict=True))):
            word = words.split("|")[0].strip()
            if word != "*":
                yield f"You: {asked.get(word, word)}"
            yield f"{name}: {re.sub(r'(?m)^@.*$', '', answer).strip()}"


def named(name: str) -> str:
    """Return an id as a name."""
    return name[:1].upper() + name[1:].replace("_", " ")
