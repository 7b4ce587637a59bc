"""What a store is, bases that do most of it, and pieces to build one from."""

from fotmem.disk.directory_lock import DirectoryLock
from fotmem.stores.arrays import Ids, Vectors
from fotmem.stores.brute_force import best_hits, exact_search
from fotmem.stores.centring import Centring
from fotmem.stores.graph_store import Graph, GraphStore
from fotmem.stores.growing_rows import GrowingRows
from fotmem.stores.hits import Bias, Hits
from fotmem.stores.hub_keys import HubKeys
from fotmem.stores.id_ranges import IdRanges
from fotmem.stores.indexed_store import IndexedOptions, IndexedStore
from fotmem.stores.kmeans import moved_centres, nearest_centres
from fotmem.stores.options import StoreOptions
from fotmem.stores.parallel import ReadWriteLock, over_heads
from fotmem.stores.rows_store import RowsStore
from fotmem.stores.saved_index import Arrays, SavedIndex, array_to_file, file_to_array
from fotmem.stores.store import MemoryStore
from fotmem.stores.store_directory import StoreDirectory
from fotmem.stores.tail_estimate import TailEstimate

__all__ = [
    "Arrays",
    "Bias",
    "Centring",
    "DirectoryLock",
    "Graph",
    "GraphStore",
    "GrowingRows",
    "Hits",
    "HubKeys",
    "IdRanges",
    "Ids",
    "IndexedOptions",
    "IndexedStore",
    "MemoryStore",
    "ReadWriteLock",
    "RowsStore",
    "SavedIndex",
    "StoreDirectory",
    "StoreOptions",
    "TailEstimate",
    "Vectors",
    "array_to_file",
    "best_hits",
    "exact_search",
    "file_to_array",
    "moved_centres",
    "nearest_centres",
    "over_heads",
]
