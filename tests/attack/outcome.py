"""How an attack ended."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fotmem import FotmemError

HELD, REFUSED, FOUND = "held", "refused", "found"


@dataclass(frozen=True)
class Outcome:
    """`HELD` (right answers), `REFUSED` (an error that names the culprit) or `FOUND` (a fault)."""

    kind: str
    tried: str
    """What was done, in words."""
    told: str = ""
    """The error, or the fault."""

    def __str__(self) -> str:
        """One line."""
        return f"{self.tried}: {' '.join(self.told.split())[:400] or self.kind}"


def outcome_of(tried: str, attempt: Callable[[], object], names: Sequence[str] = ("",)) -> Outcome:
    """Do something that must succeed, or be refused by an error that has one of these names."""
    try:
        attempt()
    except FotmemError as error:
        if any(name in str(error) for name in names):
            return Outcome(REFUSED, tried, str(error))
        return Outcome(FOUND, tried, f"refused without a word on {' or '.join(names)}: {error}")
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = "" if type(error) is AssertionError else f" (in {place.filename}:{place.lineno})"
        return Outcome(FOUND, tried, f"{type(error).__name__}: {error}{where}")
    return Outcome(HELD, tried)
