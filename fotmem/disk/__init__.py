"""Durable files: arrays of rows in checked chunks, a log of them, and an atomic commit."""

from fotmem.disk.array_group import ArrayGroup, Column, LayerShape, Location
from fotmem.disk.byte_range import ByteRange
from fotmem.disk.chunk_cache import ChunkCache
from fotmem.disk.chunk_reader import load_arrays, load_chunks
from fotmem.disk.chunked_array import ChunkedArray, DamagedChunkError
from fotmem.disk.decoded_rows import DecodedRows
from fotmem.disk.directory_lock import DirectoryLock
from fotmem.disk.group_files import GroupFiles
from fotmem.disk.log import Log, LogPart
from fotmem.disk.log_entries import (
    BLOCK_ROWS,
    BlockRows,
    GroupEntry,
    Number,
    PartEntry,
    PieceEntry,
    Positive,
    Strict,
    check_names,
    check_parts,
    check_pieces,
    is_power_of_two,
    require,
)
from fotmem.disk.log_loading import check_descriptions, descriptions_of, load_log, load_pieces
from fotmem.disk.manifest_file import ROOT, GroupManifest, ManifestFile, ManifestFormat
from fotmem.disk.mapped_rows import MappedRows
from fotmem.disk.opening import is_remote, open_storage
from fotmem.disk.quantization import LayerCodec, Quantization
from fotmem.disk.row_lookup import look_up_rows
from fotmem.disk.saved_rows import SavedRows
from fotmem.disk.storage import TRANSIENT, Storage, UnreachableError
from fotmem.disk.tail_piece import TailPiece, grown_tail, load_tail
from fotmem.disk.traffic import Traffic
from fotmem.disk.unread_bytes import OpenFile, UnreadBytes, read_parts

__all__ = [
    "BLOCK_ROWS",
    "ROOT",
    "TRANSIENT",
    "ArrayGroup",
    "BlockRows",
    "ByteRange",
    "ChunkCache",
    "ChunkedArray",
    "Column",
    "DamagedChunkError",
    "DecodedRows",
    "DirectoryLock",
    "GroupEntry",
    "GroupFiles",
    "GroupManifest",
    "LayerCodec",
    "LayerShape",
    "Location",
    "Log",
    "LogPart",
    "ManifestFile",
    "ManifestFormat",
    "MappedRows",
    "Number",
    "OpenFile",
    "PartEntry",
    "PieceEntry",
    "Positive",
    "Quantization",
    "SavedRows",
    "Storage",
    "Strict",
    "TailPiece",
    "Traffic",
    "UnreachableError",
    "UnreadBytes",
    "check_descriptions",
    "check_names",
    "check_parts",
    "check_pieces",
    "descriptions_of",
    "grown_tail",
    "is_power_of_two",
    "is_remote",
    "load_arrays",
    "load_chunks",
    "load_log",
    "load_pieces",
    "load_tail",
    "look_up_rows",
    "open_storage",
    "read_parts",
    "require",
]
