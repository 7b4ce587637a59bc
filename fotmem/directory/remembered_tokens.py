"""What the indexes of a memory are kept beside."""

from typing import Protocol

from torch import Tensor

from fotmem.disk import Storage


class RememberedTokens(Protocol):
    """What indexes are kept beside: a `MemoryDirectory`."""

    @property
    def name(self) -> str:
        """Where it is, for messages."""

    @property
    def directory_id(self) -> str:
        """Drawn at random when the directory was begun."""

    @property
    def compactions(self) -> int:
        """How often ids have changed."""

    @property
    def storage(self) -> Storage:
        """Where the files are."""

    @property
    def keeps_indexes(self) -> bool:
        """Whether indexes can be written."""

    def is_overtaken(self) -> bool:
        """Return whether what is known here no longer holds there."""

    def __len__(self) -> int:
        """Count the tokens."""

    def tokens(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Read token ids, and the first and last characters."""
