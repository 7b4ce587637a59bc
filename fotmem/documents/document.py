"""A text with a name."""

from dataclasses import dataclass, field
from hashlib import sha256

from fotmem.errors import InputError


@dataclass(frozen=True)
class Document:
    """A text with a name.

    Parameters
    ----------
    name : str
        The file, as the user named it; of an item of a JSONL file or dataset
        ``"file.jsonl#12"``.
    text : str

    Attributes
    ----------
    sha256 : str
        64 hexadecimal digits, of the text in UTF-8.

    Raises
    ------
    InputError
        The text has half a surrogate pair, which UTF-8 cannot hold.

    Examples
    --------
    >>> Document("note", "A captain.").sha256[:8]
    '3b33a338'
    """

    name: str
    text: str
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        try:
            content = self.text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{self.name}: character {error.start} is half of a surrogate pair "
                f"({self.text[error.start]!r}); repair the text"
            ) from error
        # The name of a file may have bytes that are no UTF-8.
        object.__setattr__(self, "name", self.name.encode(errors="backslashreplace").decode())
        object.__setattr__(self, "sha256", sha256(content).hexdigest())
