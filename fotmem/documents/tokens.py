"""Tokens of a document, with the characters that each covers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fotmem.documents.document import Document
from fotmem.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class TokenizedDocument:
    """A document as tokens.

    Attributes
    ----------
    document : Document
    ids : Tensor
        int64 ``[n]``, what ``tokenizer(document.text).input_ids`` is.
    starts, stops : Tensor
        int32 ``[n]``. Token `i` covers ``document.text[starts[i]:stops[i]]``; a special token
        covers nothing. Several tokens that make up one character all cover it. A character that
        the vocabulary lacks, and a space that the tokenizer drops, are covered by none.
    """

    document: Document
    ids: Tensor
    starts: Tensor
    stops: Tensor


def tokenized(
    document: Document, tokenizer: Any, *, add_special_tokens: bool = True
) -> TokenizedDocument:
    """Tokenize a document, as a whole.

    Parameters
    ----------
    document : Document
    tokenizer : transformers tokenizer
        A fast one: the others do not know which characters a token covers.
    add_special_tokens : bool, optional
        Whether with those that the tokenizer puts around a text. Default: True.

    Raises
    ------
    InputError
        The tokenizer is slow.
    """
    import torch

    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"{type(tokenizer).__name__} does not know which characters a token covers; "
            "load a fast tokenizer, one with a tokenizer.json, by AutoTokenizer.from_pretrained"
        )
    encoded = tokenizer(
        document.text,
        add_special_tokens=add_special_tokens,
        return_offsets_mapping=True,
        verbose=False,
    )
    spans = torch.tensor(encoded.offset_mapping, dtype=torch.int32).view(-1, 2)
    return TokenizedDocument(
        document,
        ids=torch.tensor(encoded.input_ids, dtype=torch.int64),
        starts=spans[:, 0].contiguous(),
        stops=spans[:, 1].contiguous(),
    )
