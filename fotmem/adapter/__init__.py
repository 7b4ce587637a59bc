"""For authors of adapters: the interface, and a base for decoders with rotary embeddings."""

from fotmem.adapter.interface import Adapter
from fotmem.adapter.rotary import RotaryAdapter

__all__ = ["Adapter", "RotaryAdapter"]
