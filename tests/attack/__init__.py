"""Attacks on persistent stores and on memories: ``python -m tests.attack``, or ``make attack``.

Each kind is a file with a function `attack`, which makes one attempt that a seed decides.
"""
