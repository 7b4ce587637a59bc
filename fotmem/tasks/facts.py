"""Invented facts to hide in a text and to ask for: a model knows them only from the text."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

FIRST_NAMES = (
    "Hannah Omar Lucia Viktor Amara Jonas Mei Tobias Ines Rafael Sofia Karim Greta Diego Yuki "
    "Pavel Nora Samuel Leila Marco Ingrid Bruno Celia Anton Farida Oscar Petra Hugo Selma Ivan "
    "Clara Jamal Edith Milan Rosa Felix Zara Boris Elena Amir Judith Leon Tamar Nils Alba Victor "
    "Salma Erik Irene Mateo Vera Conrad Nadia Simon Thea Abel Lydia Caspar Mona Julian"
)
SURNAMES = (
    "Weber Haddad Moreno Lindqvist Okafor Tanaka Novak Keller Rossi Duarte Petrov Larsen Silva "
    "Brandt Kimura Farkas Jensen Alvarez Popov Becker Marino Olsen Costa Vogel Mansour Eriksen "
    "Fischer Bianchi Sato Kovacs Hansen Ruiz Ivanov Schmidt Greco Nilsen Pinto Lang Aziz Berg "
    "Winter Ferrari Mori Balog Holm Vega Orlov Huber Conti Dahl Reis Maier Khoury Strand Sommer "
    "Ricci Abe Szabo Lund Castro"
)
ADJECTIVES = (
    "blue old secret northern wooden second hidden green upper private silver eastern narrow "
    "spare red broken lower yellow official iron"
)
"""Words, separated by spaces."""
NUMBERED = [
    "house number",
    "phone extension",
    "locker code",
    "ticket number",
    "room number",
    "badge number",
    "order number",
    "account number",
    "serial number",
    "gate code",
    "flight number",
    "invoice number",
    "membership number",
    "safe combination",
    "registration number",
    "parcel number",
]
WORDED = {
    "favourite animal": "hedgehog otter falcon camel badger salmon raven lynx beetle heron tiger",
    "favourite colour": "purple orange turquoise crimson beige violet indigo golden scarlet olive",
    "home town": "Lisbon Bergen Toledo Krakow Quebec Nairobi Osaka Geneva Havana Dublin Perth Oslo",
    "profession": "carpenter pilot dentist baker lawyer miner painter surgeon tailor gardener",
    "instrument": "cello trumpet banjo piano flute violin harp clarinet accordion organ",
}
DIGITS = (3, 4, 5, 6, 7)
"""Lengths of the numbers in training; other lengths test whether the model generalises."""

STATEMENTS = (
    "{Key} is {answer}.",
    "{Key} is {answer}. Remember it.",
    "{Key} is {answer}. Remember it. {answer} is {key}.",
    "Remember that {key} is {answer}.",
    "Note: {key} is {answer}.",
    "As everybody knows, {key} is {answer}.",
    "They wrote down {key}: {answer}.",
    "{Key} has been {answer} for many years.",
    "If anyone asks, {key} is {answer}.",
    "{Key} was changed to {answer}.",
    "For {key} we took {answer}.",
    "{Key} turned out to be {answer}.",
    "{Key}, as far as I know, is {answer}.",
    "A note about {key}: {answer}.",
    "In the letter {key} was given as {answer}.",
    "Do not lose {key}, it is {answer}.",
    "Somebody told us {key}, namely {answer}.",
    "We looked for {key} and found that it was {answer}.",
    "Keep {key} ({answer}) to yourself.",
)
"""The key comes first in all of them: what a decoder stores cannot depend on later text."""
MORE_STATEMENTS = (
    "{Key} ... {answer}",
    "{Key} = {answer}",
    "{Key}: {answer}",
    "- {key}: {answer}",
    "| {key} | {answer} |",
    "By the way, {key} is now {answer}, not what it was before.",
    "Under {key} the list has {answer}.",
    "Yesterday we learned {key}. It is {answer}, of all things.",
    "Of {key} nothing is known but this: {answer}.",
    '"What about {key}?" he asked. "{answer}," she said.',
    '"Is it true that {key} is {answer}?" - "Yes, it is."',
    "It took us a long time to get {key}, but here it is: {answer}.",
    "Whoever needs {key} should take {answer}.",
    "{Key} (still {answer}) will not change this year.",
    "You will be asked for {key}; the reply is {answer}.",
    "Nobody believed that {key} could be {answer}, and yet it was.",
    "On the back of the photograph stood {key}, {answer}.",
    "All that I can tell you of {key}: they call it {answer}.",
    "With regard to {key}, our records show {answer}.",
)
"""For training only: the more ways there are to say it, the less a model learns them by heart."""
QUESTIONS = (
    "What is {key}? {Key} is",
    "What is {key}? It is",
    "{Key} is",
    "Question: What is {key}?\nAnswer:",
    "Do you remember {key}? {Key} is",
    "Can you tell me {key}? Yes, it is",
    "What was {key} again? It was",
    "I remember that {key} is",
    "Please give me {key}.\n{Key} is",
    "Q: What is {key}?\nA: It is",
    "Remind me of {key}. It is",
    "Somebody asks for {key}. The answer is",
    "Let us look up {key}. Here it is:",
    "If I remember well, {key} was",
    "Now say {key}:",
    "Do we still have {key}? Yes:",
)
MORE_QUESTIONS = (
    "{Key} =",
    "{Key}:",
    "| {key} |",
    "Question: {Key}?\nShort answer:",
    "Question: Which one is {key}?\nShort answer:",
    "She wants to know {key}. We have to answer",
    "He was asked for {key} and said at once that it was",
    '"And {key}?" - "That is',
    "According to the text, {key} is",
    "We read above that {key} is",
    "The text says of {key} that it is",
    "Fill in the form. {Key}:",
    "Look for {key} in your notes. They have",
    "Is there anything about {key}? There is, namely",
    "One more time, what was {key}? I would say",
    "In the end {key} had to be typed in. She typed",
    "Complete the sentence: {Key} is",
    "What do they call {key}? They call it",
)
QUESTIONS_OF_SEVERAL = (
    "What are {keys}? They are",
    "What are {keys}? {Keys} are",
    "{Keys} are",
    "List {keys}:",
    "Question: What are {keys}?\nAnswer:",
    "Do you remember {keys}? Yes, they are",
    "We need {keys}. In the text we find",
    "Tell me {keys}. Here they are:",
)
"""For training only; each asks for several facts at once."""


@dataclass(frozen=True)
class Fact:
    """A key and its answer, such as "the house number of Hannah Weber" and "48213"."""

    key: str
    answer: str
    group: str = ""
    """What the facts of one key are together, such as "all locker codes of Nora"."""

    def say(self, template: str) -> str:
        """Put key and answer into one of `STATEMENTS` or `QUESTIONS`, or into another sentence.

        ``{Key}`` begins with a capital letter.
        """
        capital = self.key[:1].upper() + self.key[1:]
        return template.format(key=self.key, Key=capital, answer=self.answer)


def ask_for(facts: Sequence[Fact], template: str) -> tuple[str, str]:
    """Ask for several facts at once, by one of `QUESTIONS_OF_SEVERAL`; return also the answers."""
    keys = listed([*dict.fromkeys(fact.group or fact.key for fact in facts)])
    question = template.format(keys=keys, Keys=keys[:1].upper() + keys[1:])
    return question, listed([fact.answer for fact in facts])


def listed(words: Sequence[str]) -> str:
    """Join words as a sentence does: "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


class Facts:
    """An endless sequence of facts, each computed from its number and a seed.

    Any 1,000 consecutive facts have different keys, because contradicting facts teach nothing. Half
    of the facts near each other are about the same thing, and differ only in names.
    """

    def __init__(self, seed: int, digits: tuple[int, ...] = DIGITS) -> None:
        self._seed, self._digits = seed, digits
        order = random.Random(f"facts {seed}")
        self._things = [*NUMBERED, *WORDED]
        self._first_names = FIRST_NAMES.split()
        self._full_names = [
            f"{first} {last}" for first in self._first_names for last in SURNAMES.split()
        ]
        self._unowned = [
            f"{adjective} {thing}" for adjective in ADJECTIVES.split() for thing in NUMBERED
        ]
        for pool in (self._things, self._first_names, self._full_names, self._unowned):
            order.shuffle(pool)

    def __getitem__(self, number: int) -> Fact:
        draw = random.Random(f"fact {self._seed} {number}")
        eighth, place = divmod(number, 8)
        if place == 0:
            thing = self._unowned[eighth % len(self._unowned)]
            return Fact(f"the {thing}", self._answer(thing, draw))
        if place % 2:
            name = self._full_names[(4 * eighth + place // 2) % len(self._full_names)]
            turn = eighth // 20
            shift = 0 if place % 4 == 1 else draw.randrange(len(self._things))
        else:
            turn, person = divmod(3 * eighth + place // 2 - 1, len(self._first_names))
            name = self._first_names[person]
            shift = person * (person % 2)  # the same in each turn: no name gets a thing again
        thing = self._things[(turn + shift) % len(self._things)]
        key = f"{name}'s {thing}" if draw.random() < 0.25 else f"the {thing} of {name}"
        return Fact(key, self._answer(thing, draw))

    def of_one_key(self, number: int, count: int) -> list[Fact]:
        """Return facts with one key and different answers, computed from a number and the seed."""
        draw = random.Random(f"facts {self._seed} {number} of one key")
        thing, name = draw.choice(self._things), draw.choice(self._full_names)
        answers: dict[str, None] = {}
        while len(answers) < count:
            answers[self._answer(thing, draw)] = None
        group = f"all {thing}s of {name}"
        return [Fact(f"one {thing} of {name}", answer, group) for answer in answers]

    def _answer(self, thing: str, draw: random.Random) -> str:
        if thing in WORDED:
            return draw.choice(WORDED[thing].split())
        digits = draw.choice(self._digits)
        return str(draw.randrange(10 ** (digits - 1), 10**digits))
