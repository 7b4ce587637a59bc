"""What a memory's directory says about the model that filled it, and about its documents."""

from typing import Annotated, Self

from pydantic import Field, model_validator

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
    decay: Annotated[float, Field(ge=0, allow_inf_nan=False)]
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
    """True: no search finds it any more."""

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        require(self.first <= self.stop, "a document ends before it begins")
        return self

    def begins(self, later: "DocumentEntry") -> bool:
        """Return whether an entry is of the same reading of the same text, perhaps further on."""
        same = (self.name, self.first, self.sha256, self.read_at)
        if same != (later.name, later.first, later.sha256, later.read_at):
            return False
        return later.stop == self.stop if self.is_complete else later.stop >= self.stop

    def __len__(self) -> int:
        """Count the tokens that were read of it."""
        return self.stop - self.first
