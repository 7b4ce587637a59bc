"""The command line as ``python -m fotmem``: the one of that Python, whatever stands in PATH."""

from fotmem.cli import main

main()
