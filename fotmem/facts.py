"""Invented facts to hide in a text and to ask for: nobody knows them who has not read them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

FIRST_NAMES = [
    "Hannah",
    "Omar",
    "Lucia",
    "Viktor",
    "Amara",
    "Jonas",
    "Mei",
    "Tobias",
    "Ines",
    "Rafael",
    "Sofia",
    "Karim",
    "Greta",
    "Diego",
    "Yuki",
    "Pavel",
    "Nora",
    "Samuel",
    "Leila",
    "Marco",
    "Ingrid",
    "Bruno",
    "Celia",
    "Anton",
    "Farida",
    "Oscar",
    "Petra",
    "Hugo",
    "Selma",
    "Ivan",
    "Clara",
    "Jamal",
    "Edith",
    "Milan",
    "Rosa",
    "Felix",
    "Zara",
    "Boris",
    "Elena",
    "Amir",
    "Judith",
    "Leon",
    "Tamar",
    "Nils",
    "Alba",
    "Victor",
    "Salma",
    "Erik",
    "Irene",
    "Mateo",
    "Vera",
    "Conrad",
    "Nadia",
    "Simon",
    "Thea",
    "Abel",
    "Lydia",
    "Caspar",
    "Mona",
    "Julian",
]
SURNAMES = [
    "Weber",
    "Haddad",
    "Moreno",
    "Lindqvist",
    "Okafor",
    "Tanaka",
    "Novak",
    "Keller",
    "Rossi",
    "Duarte",
    "Petrov",
    "Larsen",
    "Silva",
    "Brandt",
    "Kimura",
    "Farkas",
    "Jensen",
    "Alvarez",
    "Popov",
    "Becker",
    "Marino",
    "Olsen",
    "Costa",
    "Vogel",
    "Mansour",
    "Eriksen",
    "Fischer",
    "Bianchi",
    "Sato",
    "Kovacs",
    "Hansen",
    "Ruiz",
    "Ivanov",
    "Schmidt",
    "Greco",
    "Nilsen",
    "Pinto",
    "Lang",
    "Aziz",
    "Berg",
    "Winter",
    "Ferrari",
    "Mori",
    "Balog",
    "Holm",
    "Vega",
    "Orlov",
    "Huber",
    "Conti",
    "Dahl",
    "Reis",
    "Maier",
    "Khoury",
    "Strand",
    "Sommer",
    "Ricci",
    "Abe",
    "Szabo",
    "Lund",
    "Castro",
]
ADJECTIVES = [
    "blue",
    "old",
    "secret",
    "northern",
    "wooden",
    "second",
    "hidden",
    "green",
    "upper",
    "private",
    "silver",
    "eastern",
    "narrow",
    "spare",
    "red",
    "broken",
    "lower",
    "yellow",
    "official",
    "iron",
]
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
"""How long the numbers are in training; other lengths show whether the model generalises."""

STATEMENTS = (
    "The {key} is {answer}.",
    "The {key} is {answer}. Remember it.",
    "The {key} is {answer}. Remember it. {answer} is the {key}.",
    "Remember that the {key} is {answer}.",
    "{answer} is the {key}.",
    "Note: the {key} is {answer}.",
    "As everybody knows, the {key} is {answer}.",
    "They wrote down the {key}: {answer}.",
    "In the end, {answer} turned out to be the {key}.",
    "The {key} has been {answer} for many years.",
    "If anyone asks, the {key} is {answer}.",
    "We agreed on {answer} as the {key}.",
    "The {key} was changed to {answer}.",
)
QUESTIONS = (
    "What is the {key}? The {key} is",
    "What is the {key}? It is",
    "The {key} is",
    "Question: What is the {key}?\nAnswer:",
    "Do you remember the {key}? The {key} is",
    "Can you tell me the {key}? Yes, it is",
    "What was the {key} again? It was",
    "I remember that the {key} is",
    "Please give me the {key}.\nThe {key} is",
    "Q: What is the {key}?\nA: It is",
)


@dataclass(frozen=True)
class Fact:
    """A key and its answer, such as "house number of Hannah Weber" and "48213"."""

    key: str
    answer: str

    def say(self, template: str) -> str:
        """Put key and answer into one of `STATEMENTS` or `QUESTIONS`, or into another sentence."""
        return template.format(key=self.key, answer=self.answer)


class Facts:
    """An endless row of facts, each computed from its number and a seed.

    Of any 1,000 in a row, no two have the same key: facts that contradict each other teach nothing.
    """

    def __init__(self, seed: int, digits: tuple[int, ...] = DIGITS) -> None:
        self._seed, self._digits = seed, digits

    def __getitem__(self, number: int) -> Fact:
        draw = random.Random(f"fact {self._seed} {number}")
        if number % 8 == 0:  # nobody's
            kinds = _shuffled(tuple(ADJECTIVES), tuple(NUMBERED), self._seed)
            adjective, thing = kinds[number // 8 % len(kinds)]
            return Fact(f"{adjective} {thing}", self._answer(thing, draw))
        names = _shuffled(tuple(FIRST_NAMES), tuple(SURNAMES), self._seed)
        first, last = names[number % len(names)]
        thing = draw.choice([*NUMBERED, *WORDED])
        return Fact(f"{thing} of {first} {last}", self._answer(thing, draw))

    def _answer(self, thing: str, draw: random.Random) -> str:
        if thing in WORDED:
            return draw.choice(WORDED[thing].split())
        digits = draw.choice(self._digits)
        return str(draw.randrange(10 ** (digits - 1), 10**digits))


@lru_cache
def _shuffled(
    firsts: tuple[str, ...], seconds: tuple[str, ...], seed: int
) -> list[tuple[str, str]]:
    pairs = [(first, second) for first in firsts for second in seconds]
    random.Random(seed).shuffle(pairs)
    return pairs
