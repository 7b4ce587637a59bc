"""Checks on an accelerator whose answers no query waits for."""

from torch import Tensor

from fotmem.errors import NonFiniteError


class LateChecks:
    """Remembers on the device whether all was well; the next change of the store asks."""

    def __init__(self) -> None:
        self._fine: Tensor | None = None

    def note(self, fine: Tensor) -> None:
        """Take the answer of a check, a bool ``[]``, without waiting for it."""
        self._fine = fine if self._fine is None else self._fine & fine

    def report(self) -> None:
        """Wait for all answers; raise `NonFiniteError` if one was False, once."""
        fine, self._fine = self._fine, None
        if fine is not None and not bool(fine):
            raise NonFiniteError("queries or bias of an earlier search")
