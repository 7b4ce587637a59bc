"""A store that finds only every so many keys, and pass keys to ask it for."""

from pathlib import Path
from typing import Any

import fotmem
from fotmem import Memory
from fotmem.measure.evaluate import passkey as evaluated
from fotmem.measure.evaluate.passkey import PasskeyRow
from fotmem.measure.evaluate.passkey_trials import make_trials
from fotmem.measure.evaluate.report import TaskReport
from fotmem.measure.grid import Grid
from tests import folders
from tests.plugins import hook
from tests.tiny import contents, one_thread  # noqa: F401 - a fixture

TEXT = folders.PROSE[:6000]
TOP_K = 4
GRID: Grid = {"sparse": {"salt": [1, 2], "every": [1, 3]}}
"""Two stores to build, each tuned twice."""

SPARSE = """
from fotmem.stores import Hits
from fotmem.stores.brute_force import exact_search
from fotmem_exact.store import ExactStore

class SparseOptions(StoreOptions):
    every: int = 2
    salt: int = 0

class SparseStore(ExactStore):
    '''Finds only every so many keys.'''

    search_options = frozenset({'every'})
    built = []

    def __init__(self, options, **layer):
        super().__init__(**layer)
        self.options = options

    def add_rows(self, keys, values):
        if not len(self):
            self.built.append(self.options.salt)
        if self.options.salt == 13:
            raise OSError('the disk is full')
        if self.options.salt == 99:
            raise KeyboardInterrupt
        super().add_rows(keys, values)

    def search_rows_biased(self, queries, top_k, bias):
        every = self.options.every
        if every == 13:
            raise RuntimeError('no luck')
        keys = self.stored_keys.since(0)[1][:, ::every]
        if bias is None:
            hits = exact_search(queries, keys, top_k)
        else:
            hits = exact_search(queries, keys, top_k, bias=lambda ids: bias(ids * every))
        return Hits(hits.ids * every, hits.scores)

    def tune_options(self, options):
        self.options = self.options.changed(options)

def sparse(options, **layer):
    return SparseStore(options, **layer)

def none(**arguments):
    raise AssertionError

""" + hook(
    "[spec('sparse', factory=sparse, options=SparseOptions),"
    " spec('absent', factory=none, requires=('not_there',), install='pip install it')]"
)


def passkeys(
    every: Any, file: Path | None = None, *, readings: int | None = 1, attend: bool = False,
    length: int = 200, model: Any = None, **options: Any,
) -> tuple[TaskReport[PasskeyRow], Memory]:  # fmt: skip
    """Ask settings for four pass keys; the memory is as it was left."""
    model, tokenizer = model or folders.model(), folders.tokenizer()
    trials = make_trials(
        tokenizer, TEXT, tokens=length, trials=4, seed=0, window=64, readings=readings
    )
    measured = TaskReport("passkey", {"length": length}, PasskeyRow, file)
    with fotmem.attach(model, window=64, top_k=TOP_K, **options) as memory:
        missing = measured.missing(length, every)
        steps = evaluated.compare(
            model, tokenizer, trials, memory, missing, measured, attend=attend
        )
        assert sum(steps) == 4 * len(missing) or measured.failures
    return measured, memory
