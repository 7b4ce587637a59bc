"""What a memory's directory says about the model that filled it, and about its documents."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from fotmem.arguments import DecayField
from fotmem.disk import Number, Positive, Strict, require

LONGEST = 4096
"""Characters of a name."""
Text = Annotated[str, Field(max_length=LONGEST)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Fingerprint(Strict):
    """What a model must have in common with the one that filled a memory.

    Each is a checksum, or a short description: two models that differ in one of them compute
    different keys for the same text, or different tokens.
    """

    architecture: Text
    """Class of the model, and sizes of its layers."""
    config: Text = ""
    """Entries of its config that change what it computes; empty: not known."""
    weights: Text
    """Checksums of the embeddings and of the layers up to the last memory layer, in one or more
    floating dtypes: one that agrees is enough."""
    adapter: Text
    """The adapter of each memory layer."""
    rope: Text
    """Rotary embedding, and where remembered keys stand."""

    def differences(self, other: "Fingerprint") -> list[str]:
        """Describe what differs, one line each: ``weights: here ..., there ...``."""
        mine, others = self.model_dump(), other.model_dump()
        return [
            f"{name}: the memory has {mine[name]}, the model {others[name]}"
            for name in mine
            if not self._agrees(name, other)
        ]

    def _agrees(self, name: str, other: "Fingerprint") -> bool:
        mine, others = getattr(self, name), getattr(other, name)
        if name == "weights":
            return not {*mine.split()}.isdisjoint(others.split())
        return mine == others or (name == "config" and not (mine and others))


class ReadingFacts(Strict):
    """How a memory was filled, and how it is to be looked at."""

    model: Text
    """Name or path that the model was loaded by; empty if unknown."""
    tokenizer: Text
    """Checksum of the tokenizer's vocabulary; empty if unknown."""
    fingerprint: Fingerprint
    window: Positive
    last_context_length: Positive
    top_k: Positive | None
    distance: Number
    recent: Number = 0
    decay: DecayField
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class DocumentEntry(Strict):
    """A run of tokens that was read under one name."""

    name: Text
    """Empty for tokens that were read without a name."""
    first: Number
    """Id of its first token."""
    stop: Number
    """Id after its last token."""
    sha256: Sha256
    """Of its text in UTF-8; where only token ids are known, of these (int64, little endian)."""
    characters: Number | None
    """Length of its text; None where only token ids are known."""
    read_at: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    """When the reading began, in UTC."""
    is_complete: bool
    """False: the reading has not come to its end yet."""
    is_removed: bool
    """True: no search finds it."""
    is_replacement: bool = False
    """True: it is read in place of the document of its name, and is not there until it is whole."""

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        require(self.first <= self.stop, "a document ends before it begins")
        hidden = self.is_removed and not self.is_complete and bool(self.name)
        require(hidden or not self.is_replacement, "a replacement that is not whole is shown")
        return self

    @property
    def is_needed(self) -> bool:
        """Whether it is there, or will be once its reading has come to its end."""
        return not self.is_removed or self.is_replacement

    def removed(self) -> Self:
        """Return the entry of a document that is not there any more."""
        return self.model_copy(update={"is_removed": True, "is_replacement": False})

    def begins(self, later: "DocumentEntry") -> bool:
        """Return whether an entry is of the same reading of the same text, perhaps further on."""
        same = (self.name, self.first, self.sha256, self.read_at)
        if same != (later.name, later.first, later.sha256, later.read_at):
            return False
        return later.stop == self.stop if self.is_complete else later.stop >= self.stop

    def __len__(self) -> int:
        """Count the tokens that were read of it."""
        return self.stop - self.first
