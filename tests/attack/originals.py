"""The stores whose copies are attacked."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tests.attack.outcome import FOUND, HELD, REFUSED, Outcome, outcome_of
from tests.attack.target import MANIFEST, Target


class Originals:
    """A store, its state at an earlier flush, and another store of the same shape."""

    def __init__(self, target: Target, folder: Path) -> None:
        self.target = target
        self.store, self.earlier, self.other = (
            folder / name for name in ("store", "earlier", "other")
        )
        if not self.store.exists():
            target.write(self.store, earlier=self.earlier)
            target.write(self.other, seed=1)

    def copy(self, to: Path, original: str = "store") -> Path:
        """Copy one of them."""
        shutil.copytree(getattr(self, original), to)
        return to

    def look_into_zip(self, store: Path) -> None:
        """Pack a store into a zip file, and check that."""
        packed = shutil.make_archive(str(store.with_name("packed")), "zip", store)
        self.target.look(Path(packed))

    def matters(self, name: str) -> bool:
        """Whether any damage must be noticed, because other readers of zarr need this file."""
        return Path(name).name == MANIFEST and b'"array"' in (self.store / name).read_bytes()

    def judged(
        self,
        tried: str,
        store: Path,
        names: Sequence[str],
        mend: Callable[[], object],
        look: Callable[[Path], object] | None = None,
    ) -> Outcome:
        """Check a damaged store; if it is refused, it must open once the damage is mended."""
        look = look or self.target.look
        outcome = outcome_of(tried, lambda: look(store), names)
        if outcome.kind != REFUSED:
            return outcome
        mend()
        mended = outcome_of(tried, lambda: look(store))
        if mended.kind == HELD:
            return outcome
        return Outcome(FOUND, tried, f"refused, and mended it still fails: {mended.message}")

    def unnoticed(self, outcome: Outcome) -> Outcome:
        """Count right answers as a fault: the damage went unnoticed."""
        return replace(outcome, kind=FOUND, message="went unnoticed")
