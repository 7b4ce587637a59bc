"""Questions that the sentences of a text answer, made from these sentences by their form."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from fotmem.tasks.quotations import Quotation

WORDS = (6, 40)
"""Words of a sentence, at least and at most."""
ASKED, ANSWERED = (4, 10), 8
"""Words of a sentence that a question repeats after its verb; words of an answer, at most."""
PROMPTS = (
    "Question: {}\nAnswer:",
    "Question: {}\nShort answer:",
    "Q: {}\nA:",
    "{}",
    "{} It is",
    'Somebody asked: "{}" The answer is',
    "{}\n\n",
)
SMALL = "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
BE = "is|are|was|were"
MAY = "has|had|have|can|could|may|must|should|will|would"
DOES = (
    "accept|affect|allow|apply|assume|begin|build|call|cause|change|check|compute|consist|"
    "contain|control|convert|copy|create|define|delete|describe|determine|display|do|eat|end|"
    "enable|expect|fail|find|follow|force|get|give|handle|help|hold|ignore|include|indicate|"
    "keep|know|lead|let|like|list|live|make|mean|need|occur|offer|open|own|perform|print|"
    "produce|provide|raise|reach|read|receive|refer|remain|remove|replace|represent|require|"
    "return|run|say|see|seem|send|set|show|specify|stand|start|stop|store|support|take|tell|"
    "translate|try|turn|use|wait|want|work|write"
)
DID = (
    "added|asked|became|began|bought|brought|built|called|came|changed|created|decided|"
    "described|designed|died|discovered|explained|fell|felt|found|founded|gave|got|held|"
    "invented|introduced|joined|kept|killed|knew|laid|led|left|lived|looked|lost|made|married|"
    "met|moved|named|opened|ordered|owned|painted|passed|played|published|put|ran|reached|read|"
    "received|ruled|said|sat|saw|sent|served|showed|sold|spent|spoke|started|stood|stopped|"
    "studied|talked|thought|told|took|translated|turned|used|visited|walked|wanted|went|won|"
    "worked|wrote"
)
"""Verbs, in the present and in the past."""
VERB = f"{BE}|{MAY}|{DID}|(?:{DOES})e?s"
WORD = r"[\w'\u2019./`-]+"
SUBJECT = f"(?P<subject>(?:(?:The|An?|Each|Every) )?{WORD}(?: {WORD}){{0,4}}?)"
POINTING = re.compile(
    r"(?:he|she|it|its|they|we|you|i|this|that|these|those|there|here|who|which|what|when|where|if|"
    r"as|but|and|or|so|for|in|on|at|to|by|with|from|of|also|then|thus|however|since|while|after|"
    r"before|although|because|not|no|now|how|why|her|his|their|my|our|your)\b",
    re.IGNORECASE,
)
"""How a sentence begins that says of something else what it is about."""
WHO = re.compile(rf"{SUBJECT} (?P<verb>{VERB}) (?P<rest>.+)")
WHAT_IS = re.compile(rf"{SUBJECT} (?P<verb>{BE}) (?P<rest>.+)")
WHAT_DOES = re.compile(rf"{SUBJECT} (?P<verb>{DOES})e?s (?P<rest>.+)")
WHEN = re.compile(
    r"(?P<before>.*?),? \b(?:in|since|until|by) (?P<year>(?:1[0-9]|20)\d\d)\b(?P<after>.*)"
)
HOW_MANY = re.compile(
    rf"(?P<before>.*?)(?<![\d.,])\b(?P<number>\d{{1,3}}(?:,\d{{3}})+|\d{{1,4}}|{SMALL}) "
    r"(?P<noun>[a-z]{3,}s)\b(?P<after>.*)"
)
NAME = re.compile(r"(?<=[a-z,] )[A-Z][\w'\u2019-]+(?: (?:of |the )?[A-Z][\w'\u2019-]+)*(?![\w(])")
TERM = re.compile(
    r"(?<=[a-z,:] )(?:--?[a-z][\w-]*|~?/[\w./-]{2,}|\w+\(\)|[\w-]+\.[a-z]{1,4}|[a-z]+_\w+|"
    r"[\"\u201c][^\"\u201d]{2,30}[\"\u201d])(?=[ ,]|$)"
)
"""What has a name: persons, places, things; options, files, functions, quoted words."""
AROUND = (10, 8)
"""Words before and after a name that a question repeats, at most."""
PAUSE = re.compile(r"[,;:](?=\s)|\s\(")
"""Where an answer may end before its sentence does; not inside a number such as 10,000."""
KEPT = 0.85
"""Share of these words in half of the questions: who asks does not know all of them."""


def make_question(text: str, draw: random.Random) -> Quotation | None:
    """Ask for what one of the sentences of a text says.

    Returns None if no sentence has a form that a question can be made of.
    """
    found = [question for each in sentences(text) for question in questions(each, draw)]
    if not found:
        return None
    question = draw.choice(found)
    return question._replace(asked=draw.choice(PROMPTS).format(question.asked))


def sentences(text: str) -> Iterator[str]:
    """Yield the whole sentences of a text, on one line each, without their last stop."""
    for paragraph in re.split(r"\n\s*\n", text):
        for each in re.split(r"(?<=[.!?;])\s+", paragraph)[1:]:  # the first may have no beginning
            line = " ".join(each.split())
            if line.endswith(".") and WORDS[0] <= line.count(" ") + 1 <= WORDS[1]:
                yield line.removesuffix(".")


def questions(sentence: str, draw: random.Random) -> Iterator[Quotation]:
    """Yield what can be asked about a sentence: who, what, where, when, how many."""
    if found := WHEN.fullmatch(sentence):
        yield Quotation(f"In which year: {_joined(found)}?", found["year"])
    if found := HOW_MANY.fullmatch(sentence):
        yield Quotation(f"How many {found['noun']}: {_joined(found)}?", found["number"])
    yield from _named(sentence, draw)
    if POINTING.match(sentence) or re.search(r" (?:not|never) ", sentence):
        return
    if found := WHO.fullmatch(sentence):
        subject, rest = found["subject"], _some(found["rest"], draw)
        who = "Who" if re.fullmatch(r"[A-Z][a-z]+(?: [A-Z][a-z]+)+", subject) else "What"
        yield Quotation(f"{who} {found['verb']} {rest}?", subject)
    if found := WHAT_IS.fullmatch(sentence):
        yield Quotation(f"What {found['verb']} {_inside(found['subject'])}?", _few(found["rest"]))
    elif found := WHAT_DOES.fullmatch(sentence):
        asked = f"What does {_inside(found['subject'])} {found['verb']}?"
        yield Quotation(asked, _few(found["rest"]))


def _named(sentence: str, draw: random.Random) -> Iterator[Quotation]:
    """Ask for each name inside a sentence, with words around it."""
    for pattern in (NAME, TERM):
        for found in pattern.finditer(sentence):
            before = sentence[: found.start()].split()[-AROUND[0] :]
            if before[-1][0].isupper():  # it is the rest of a name
                continue
            words = [_inside(" ".join(before)), *sentence[found.end() :].split()[: AROUND[1]]]
            around = " ".join(words).split()
            if draw.random() < 0.5:
                around = [word for word in around if draw.random() < KEPT]
            asked = "Which" if pattern is TERM else _who_or_where(before[-1], found[0])
            yield Quotation(f"{asked} {' '.join(around)}?", found[0].strip('"\u201c\u201d'))


def _who_or_where(word: str, name: str) -> str:
    """Return what asks for a name that stands after this word."""
    if word in ("in", "at", "near", "from", "to"):
        return "Where"
    return "Who" if re.fullmatch(r"[A-Z]\S+(?: [A-Z]\S+)+", name) else "Which"


def _joined(found: re.Match[str]) -> str:
    return f"{found['before'].rstrip()} {found['after'].strip()}".strip()


def _some(rest: str, draw: random.Random) -> str:
    """Return the first words of the rest of a sentence."""
    return " ".join(PAUSE.split(rest)[0].split()[: draw.randint(*ASKED)])


def _few(rest: str) -> str:
    return " ".join(PAUSE.split(rest)[0].split()[:ANSWERED])


def _inside(subject: str) -> str:
    """Return a subject as it stands inside a sentence."""
    first, _, others = subject.partition(" ")
    return f"{first.lower()} {others}" if first in ("The", "A", "An", "Each", "Every") else subject
