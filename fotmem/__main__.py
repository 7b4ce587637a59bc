"""Runs the command line as ``python -m fotmem``, with that Python, whatever PATH contains."""

from fotmem.cli import main

main()
