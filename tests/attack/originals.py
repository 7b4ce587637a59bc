"""Stores as they were written, copies of which are attacked."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tests.attack.outcome import FOUND, HELD, REFUSED, Outcome, outcome_of
from tests.attack.target import MANIFEST, Target


class Originals:
    """A store, itself at an earlier flush, and another one of the same shape."""

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
        """Look at what a store is once it is packed."""
        packed = shutil.make_archive(str(store.with_name("packed")), "zip", store)
        self.target.look(Path(packed))

    def matters(self, name: str) -> bool:
        """Whether any damage must be noticed, since other readers of zarr go by this file."""
        return Path(name).name == MANIFEST and b'"array"' in (self.store / name).read_bytes()

    def judged(
        self,
        tried: str,
        store: Path,
        names: Sequence[str],
        mend: Callable[[], object],
        look: Callable[[Path], object] | None = None,
    ) -> Outcome:
        """Look at a damaged store; refusing to open it must not have harmed it further."""
        look = look or self.target.look
        outcome = outcome_of(tried, lambda: look(store), names)
        if outcome.kind != REFUSED:
            return outcome
        mend()
        mended = outcome_of(tried, lambda: look(store))
        if mended.kind == HELD:
            return outcome
        return Outcome(FOUND, tried, f"refused, and mended it still fails: {mended.told}")

    def unnoticed(self, outcome: Outcome) -> Outcome:
        """Turn right answers into a finding."""
        return replace(outcome, kind=FOUND, told="went unnoticed")
