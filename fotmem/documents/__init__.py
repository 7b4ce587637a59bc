"""Documents of any usual kind, as texts and as tokens that know their characters."""

from fotmem.documents.document import Document
from fotmem.documents.load import load_documents
from fotmem.documents.tokens import TokenizedDocument, tokenized

__all__ = ["Document", "TokenizedDocument", "load_documents", "tokenized"]
