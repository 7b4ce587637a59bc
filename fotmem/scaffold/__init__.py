"""What ``fotmem plugin new`` writes: a package for a new store.

The folder `template` holds such a package for a store named "sample": what all have in common, and
for each base class the files that differ. Files whose names begin with a dot have none there, or
tools would take them for ours.
"""

from fotmem.scaffold.library import Library
from fotmem.scaffold.names import LONGEST, check_name
from fotmem.scaffold.package import BASES, Base, write_package

__all__ = ["BASES", "LONGEST", "Base", "Library", "check_name", "write_package"]
