"""Attacks on persistent stores and on memories: ``python -m tests.attack``, or ``make attack``.

Each kind is one file with a function `attack`, which tries one thing that its seed decides.
"""
