"""How plugins are declared and found."""

from fotmem.plugin.hookspecs import hookimpl
from fotmem.plugin.specs import AdapterSpec, StoreCapabilities, StoreSpec

__all__ = ["AdapterSpec", "StoreCapabilities", "StoreSpec", "hookimpl"]
