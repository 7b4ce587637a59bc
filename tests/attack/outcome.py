"""The outcome of an attack."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fotmem import FotmemError

HELD, REFUSED, FOUND = "held", "refused", "found"


@dataclass(frozen=True)
class Outcome:
    """`HELD`: right answers; `REFUSED`: an error that names the culprit; `FOUND`: a fault."""

    kind: str
    tried: str
    """Description of the attack."""
    message: str = ""
    """Message of the error, or of the fault."""

    def __str__(self) -> str:
        """Describe it in one line."""
        return f"{self.tried}: {' '.join(self.message.split())[:400] or self.kind}"


def outcome_of(tried: str, attempt: Callable[[], object], names: Sequence[str] = ("",)) -> Outcome:
    """Make an attempt that must succeed, or raise an error that contains one of these names."""
    try:
        attempt()
    except FotmemError as error:
        if any(name in str(error) for name in names):
            return Outcome(REFUSED, tried, str(error))
        return Outcome(FOUND, tried, f"refused without naming {' or '.join(names)}: {error}")
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = "" if type(error) is AssertionError else f" (in {place.filename}:{place.lineno})"
        return Outcome(FOUND, tried, f"{type(error).__name__}: {error}{where}")
    return Outcome(HELD, tried)
