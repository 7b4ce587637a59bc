"""The manifest of a memory's directory: what was committed, of all layers at once."""

import re
from itertools import pairwise
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator

from fotmem.directory.facts import DocumentEntry, ReadingFacts
from fotmem.disk import (
    BlockRows,
    Column,
    GroupEntry,
    GroupManifest,
    LayerShape,
    ManifestFormat,
    Number,
    PartEntry,
    PieceEntry,
    Strict,
    check_names,
    check_parts,
    check_pieces,
    is_power_of_two,
    require,
)
from fotmem.disk.quantization import LayerCodec, Quantization

TOKENS = "tokens"
TOKEN_COLUMNS = (
    Column("ids", 1, (), torch.int32),
    Column("starts", 1, (), torch.int32),
    Column("stops", 1, (), torch.int32),
)
"""Token ids, and the characters of the document that each token covers (-1: unknown)."""

MOST = 2**12
"""Heads of a layer, and dimensions of a head: many times what models have."""


def layer_folder(layer: int) -> str:
    """Return the folder of a memory layer."""
    return f"layers/{layer:02d}"


class LogEntry(Strict):
    """The groups of one folder: all rows of its columns."""

    parts: tuple[PartEntry, ...] = ()
    """Whole blocks."""
    pieces: tuple[PieceEntry, ...] = ()
    """The rows after the last whole block."""

    def entries(self) -> tuple[GroupEntry, ...]:
        """List all groups."""
        return (*self.parts, *self.pieces)


class LayerEntry(LogEntry):
    """Keys and values of one memory layer."""

    layer: Annotated[int, Field(ge=0, le=9999)]
    num_heads: Annotated[int, Field(ge=1, le=MOST)]
    head_dim: Annotated[int, Field(ge=1, le=MOST)]
    dtype: Literal["float32", "float16", "bfloat16"]
    quantization: Quantization | None = None
    """How keys and values are kept; None: as they are."""

    @property
    def shape(self) -> LayerShape:
        """Heads, head dimension and dtype."""
        return LayerShape(self.num_heads, self.head_dim, getattr(torch, self.dtype))

    @property
    def codec(self) -> LayerCodec:
        """How rows are made of keys and values."""
        return LayerCodec(self.shape, self.quantization)


class MemoryManifest(GroupManifest):
    """A memory as of its last commit. Facts that cannot be true raise `ValidationError`."""

    block: BlockRows
    """Rows of a block of the logs."""
    rows: Number = 0
    """Committed tokens."""
    compactions: Number = 0
    """How often ids have changed, because removed documents were dropped."""
    tokens: LogEntry = LogEntry()
    layers: tuple[LayerEntry, ...]
    documents: tuple[DocumentEntry, ...] = ()
    facts: ReadingFacts

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        require(is_power_of_two(self.block), "block is not a power of two")
        numbers = [entry.layer for entry in self.layers]
        require(bool(numbers), "there is no memory layer")
        require(all(a < b for a, b in pairwise(numbers)), "the layers do not ascend")
        logs = (self.tokens, *self.layers)
        check_names([entry for log in logs for entry in log.entries()], self.next_name)
        logged = self.rows // self.block * self.block
        for log in logs:
            check_parts(log.parts, block=self.block, rows=self.rows, logged=logged, forgotten=0)
            check_pieces(log.pieces, block=self.block, rows=self.rows)
        self._check_documents()
        return self

    def _check_documents(self) -> None:
        ends = [0, *(document.stop for document in self.documents)]
        firsts = [*(document.first for document in self.documents), self.rows]
        require(ends == firsts, "the documents do not follow one another")
        names = [each.name for each in self.documents if each.name and not each.is_removed]
        require(len({*names}) == len(names), "two documents have the same name")
        replacing = any(document.is_replacement for document in self.documents[:-1])
        require(not replacing, "a replacement is not the last document")

    def follows(self, earlier: "MemoryManifest") -> bool:
        """Return whether this may be a later commit of a memory than another."""
        if self.compactions != earlier.compactions:
            return self.compactions > earlier.compactions
        if self.rows < earlier.rows or len(self.documents) < len(earlier.documents):
            return False
        pairs = zip(earlier.documents, self.documents, strict=False)
        return all(old.begins(new) for old, new in pairs)

    def folders(self) -> tuple[str, ...]:
        return (TOKENS, "layers", *(layer_folder(each.layer) for each in self.layers))

    def paths(self) -> set[str]:
        logs = {TOKENS: self.tokens, **{layer_folder(each.layer): each for each in self.layers}}
        return {f"{folder}/{e.name}" for folder, log in logs.items() for e in log.entries()}


FORMAT = ManifestFormat(
    name="fotmem memory",
    version=1,
    kind=MemoryManifest,
    title="a memory of fotmem",
    noun="memory",
    own_folders=re.compile(r"tokens|layers(/[0-9]{2,4})?"),
    id_folder=TOKENS,
)
