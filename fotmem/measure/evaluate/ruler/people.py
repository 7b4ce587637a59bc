"""Invented people, and what passages tell of them."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from fotmem.measure.evaluate.ruler.words import pick

PASSAGE = (
    "\n{name}\n{name} lived in {town}. There {last} opened a {trade} shop in {year}. In later "
    "years {last} collected {things}, and left {number} of them to the town.\n"
)
FIRST_NAMES = (
    "Agnes Albert Alfred Alice Anna Arthur Beatrice Bernard Bertha Cecil Charles Charlotte "
    "Clement Daniel David Dora Edgar Edmund Edward Eleanor Elsie Emily Ernest Esther Ethel "
    "Eugene Flora Frances Frank Frederick George Gertrude Gilbert Grace Harold Harriet Helen "
    "Henry Herbert Ida Isabel Jacob James Jane John Joseph Julia Laura Lewis Louise Lucy Mabel "
    "Martha Martin Mary Maud Miriam Nathan Oliver Patrick Paul Philip Rachel Ralph Robert Ruth "
    "Sarah Stella Susan Theodore Thomas Walter William"
)
SURNAMES = (
    "Abbott Archer Ashton Barlow Barton Bishop Blackwell Bolton Bradley Brewster Burton Carver "
    "Chapman Clayton Clifford Collins Crawford Cross Dalton Dawson Drake Eastman Elliott "
    "Everett Fairfax Faulkner Fletcher Forster Gardiner Garrett Gibson Goodwin Granger Hadley "
    "Hale Hammond Harding Hawkins Hobbs Holland Hopkins Ingram Jarvis Kendall Kirby Lambert "
    "Langley Lawson Marsh Merton Morley Nash Newton Norris Osborne Palmer Parsons Perkins "
    "Pollard Preston Ramsey Redmond Rowland Sawyer Selby Sheldon Spencer Stafford Sutton "
    "Thornton Tucker Turner Wade Walton Warner Watkins Webster Weston Whitaker Wilkins"
)
TOWNS = (
    "Aberdeen Antwerp Baltimore Basel Bologna Boston Bremen Bristol Bruges Budapest Cardiff "
    "Chester Cologne Cordoba Danzig Delft Dover Dresden Durham Exeter Florence Galway Ghent "
    "Glasgow Granada Halifax Hamburg Kiel Leeds Leiden Lyon Madrid Malta Nantes Naples Norwich "
    "Odessa Oxford Padua Plymouth Porto Prague Riga Rouen Salem Seville Siena Toulouse Turin "
    "Utrecht Venice Vienna Warsaw Worcester Zurich"
)
TRADES = (
    "barber book bread candle carpet cheese china clock cloth fish flower fruit glass glove "
    "jewel lamp leather mask music paint paper pottery saddle seed shoe silk soap spice stone "
    "sugar tobacco wine wool"
)
THINGS = (
    "bells boxes bottles butterflies buttons clocks coins dolls drawings fans feathers fossils "
    "keys knives lamps letters maps masks medals mirrors paintings pens photographs pipes "
    "plates postcards rings ships shells spoons stamps statues swords tickets tiles vases "
    "watches"
)


@dataclass(frozen=True)
class Person:
    """What a passage tells."""

    first: str
    last: str
    town: str
    trade: str
    year: str
    things: str
    number: str

    @property
    def name(self) -> str:
        """First name and surname."""
        return f"{self.first} {self.last}"

    def tell(self) -> str:
        """Write the passage."""
        return PASSAGE.format(name=self.name, **vars(self))

    def questions(self) -> list[tuple[str, str]]:
        """Return who, where, what, when, and how many: each question with its answer."""
        return [
            (f"Who had a {self.trade} shop in {self.town}?", self.name),
            (f"Where did {self.name} live?", self.town),
            (f"What kind of shop did {self.name} open?", self.trade),
            (f"In which year did {self.name} open a shop?", self.year),
            (f"How many {self.things} did {self.name} leave to the town?", self.number),
        ]


def invent_person(draw: Random, like: Person | None = None, first: bool = False) -> Person:
    """Invent a person, perhaps with the first name or the surname of another."""
    return Person(
        first=like.first if like and first else pick(FIRST_NAMES, draw),
        last=like.last if like and not first else pick(SURNAMES, draw),
        town=pick(TOWNS, draw),
        trade=pick(TRADES, draw),
        year=str(draw.randrange(1750, 1900)),
        things=pick(THINGS, draw),
        number=str(draw.randrange(2000, 10_000)),
    )
