"""Chooses a store for a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from fotmem import amounts
from fotmem.arguments import checked_boolean
from fotmem.errors import InputError, OptionError, require_packages
from fotmem.files import cache_folder
from fotmem.measure.select.limits import Limits
from fotmem.outputs import check_folder
from fotmem.plugin.create import find_store
from fotmem.plugin.registry import available_stores

if TYPE_CHECKING:
    from fotmem.measure.capture import Capture
    from fotmem.measure.select.choice import Selection
    from fotmem.measure.setting import Setting

CAPTURED = 2**15
"""Tokens of the capture with which stores are measured."""
MAX_ERROR = 0.05
SECONDS = 120.0
ALIKE = "does not estimate: it reads all keys, as exact does"
"""Why a store is not measured with all keys."""
Step = Callable[[str], None]


def select(
    source: str | Path | Capture,
    *,
    tokens: int | str,
    ram: int | str | None = None,
    disk: int | str | None = None,
    latency: float | str | None = None,
    max_error: float | None = None,
    min_recall: float | None = None,
    persistent: bool = False,
    top_k: int | str | None = 32,
    layers: Iterable[int] | None = None,
    window: int = 512,
    distance: int | None = None,
    text: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    stores: Iterable[str] | str | None = None,
    seconds: float | None = None,
    step: Step | None = None,
) -> Selection:
    """Choose a store for a number of tokens within limits, by measuring on this machine.

    The model reads 32,768 tokens; keys, values and queries of its memory layers are kept in
    ``$XDG_CACHE_HOME/fotmem/captures`` (``~/.cache``). Every available store is measured while it
    grows to that size; from that its cost and quality at `tokens` are predicted.

    Parameters
    ----------
    source : str, Path or Capture
        A model, as for ``fotmem ask``; or a capture of one.
    tokens : int or str
        Tokens in memory, at least 1, such as ``"1M"`` (1,048,576).
    ram, disk : int or str, optional
        Most bytes of all memory layers together, such as ``"4GiB"``.
    latency : float or str, optional
        Most seconds that memory may add to a decoding step, or a str such as ``"20ms"``: all
        memory layers, one query of each head.
    max_error : float, optional
        Largest excess error: relative error of the attention output against attention to the
        exact top k, mean; of attention to all keys, the error against dense attention. Default:
        0.05, unless `min_recall` is given.
    min_recall : float, optional
        Smallest share of the exact top k that is found: mean.
    persistent : bool
        Whether the memory must outlive the process. Then it is kept in a directory, which any store
        opens: `disk` is the size of keys and values there, and of the index beside them; `ram` is
        what an open memory takes, without the keys and values that its store looks up there.
    top_k : int or str, optional
        Hits per query and head. ``"all"`` or None: attention to all keys. Then exact stores are
        compared with those that estimate what they do not read, such as ``clusters``; the others
        read all keys, as ``exact`` does.
    layers, window, distance
        As for `fotmem.attach`.
    text : str, optional
        The text that the model reads. Default: Python's language reference.
    device : str
        Device of the model: ``cpu`` or ``cuda``.
    threads : int, optional
        Threads of torch and stores. Default: as many as torch uses.
    stores : iterable of str or str, optional
        Stores to choose from, such as ``"exact,hnsw"``. Default: all available ones.
    seconds : float, optional
        Time limit of measuring, without capturing. Default: 120.
    step : callable, optional
        Receives the name of each step.

    Returns
    -------
    Selection
        Its `choice` is None if no store fits; then `advice` says which limit to relax.

    Raises
    ------
    MissingPackageError
        scipy or psutil are not installed.
    OptionError, UnknownStoreError
        A limit or option is invalid; there is no store of that name.
    InputError, StorageError, ModelError, LayerError
        The text is too short; as `fotmem.attach`, and `Capture.open`.

    Notes
    -----
    Stores are measured in processes of their own: a script calls this under
    ``if __name__ == "__main__":``.

    Examples
    --------
    >>> select("smollm2-fot", tokens=2**20, ram="16GiB", latency=0.05)  # doctest: +SKIP
    """
    require_packages("fotmem select", "psutil", "scipy")
    tokens = amounts.count("tokens", tokens)
    top_k = None if top_k in (None, "all") else amounts.count("top_k", top_k)
    if top_k is None and min_recall is not None:
        raise OptionError("min_recall is about top_k hits; with all keys, give max_error")
    threads = None if threads is None else amounts.count("threads", threads)
    seconds = SECONDS if seconds is None else amounts.seconds("seconds", seconds)
    if max_error is None and min_recall is None:
        max_error = MAX_ERROR
    limits = Limits(
        ram=_bytes("ram", ram),
        disk=_bytes("disk", disk),
        latency=None if latency is None else amounts.seconds("latency", latency),
        max_error=max_error,
        min_recall=min_recall,
        persistent=checked_boolean("persistent", persistent),
    )
    _require_device(device)
    from fotmem.measure.capture import Capture
    from fotmem.measure.grid import settings
    from fotmem.measure.machine import describe_machine
    from fotmem.measure.select.calibration import Calibration
    from fotmem.measure.select.choice import Selection, candidates
    from fotmem.measure.select.predict import predict

    if isinstance(stores, str):
        stores = stores.split(",")
    names = list(available_stores()) if stores is None else list(dict.fromkeys(stores))
    excluded = {name: why for name in names if (why := _missing(name))}
    if top_k is None:
        excluded |= {name: ALIKE for name in names if name not in excluded and _reads_all(name)}
    if isinstance(source, Capture):
        capture = source
    else:
        check_folder(cache_folder("captures"))
        capture = _captured(str(source), text, layers, window, distance, step)
    count = len(capture.info.layers)
    calibration = Calibration(
        capture,
        tokens=tokens,
        top_k=top_k,
        device=device,
        threads=threads,
        seconds=seconds,
        kept=limits.persistent,
    )
    asked = [
        _budgeted(each, limits, count)
        for each in settings(name for name in names if name not in excluded)
    ]

    def failed(setting: Setting, reason: str) -> None:
        excluded.setdefault(setting.store, reason)

    with closing(calibration.run(asked, failed)) as steps:
        for what in steps:
            if step is not None:
                step(what)
    measured = calibration.measured
    return Selection(
        tokens=tokens,
        captured=capture.info.tokens,
        layers=capture.info.layers,
        top_k=top_k,
        limits=limits,
        candidates=candidates(
            measured, predict(measured, tokens, count), limits, all_keys=top_k is None
        ),
        excluded=excluded,
        machine=describe_machine(),
    )


def _bytes(name: str, given: int | str | None) -> int | None:
    return None if given is None else amounts.size_in_bytes(name, given)


def _require_device(device: str) -> None:
    import torch

    known = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if device not in known:
        raise OptionError(f"device must be {' or '.join(known)} here, got {device!r}")


def _missing(name: str) -> str:
    """Return why a store cannot be used; empty if it can."""
    return (available_stores().get(name) or find_store(name)).reason


def _reads_all(name: str) -> bool:
    """Return whether an approximate store reads all keys to attend to all of them."""
    found = find_store(name).capabilities
    return not (found.exact or found.estimates_tail)


def _budgeted(setting: Setting, limits: Limits, layers: int) -> Setting:
    """Return the setting with its share of the RAM limit as budget, if the store has one."""
    from fotmem.measure.select.calibration import budget_of, with_budget

    budget = budget_of(setting)
    if limits.ram is None or budget is None or limits.ram // layers >= budget:
        return setting
    return with_budget(setting, limits.ram // layers)


def _captured(
    model: str,
    text: str | None,
    layers: Iterable[int] | None,
    window: int,
    distance: int | None,
    step: Step | None,
) -> Capture:
    from fotmem.files import python_reference
    from fotmem.measure.capture import capture_model
    from fotmem.measure.reading import OVERLAP
    from fotmem.models.load import load_model
    from fotmem.models.tokens import token_ids

    text = python_reference() if text is None else text
    if not isinstance(text, str):
        raise InputError(f"text must be a string, got {type(text).__name__}")
    llama, tokenizer = load_model(model)

    def read(count: int) -> None:
        if step is not None:
            step(f"{model} reads token {count:,} of {CAPTURED:,}")

    read(0)
    ids = token_ids(tokenizer, text)
    return capture_model(
        llama,
        ids,
        None,
        tokens=CAPTURED,
        queries=256,
        layers=layers,
        window=window,
        overlap=min(OVERLAP, window // 2),
        distance=distance,
        progress=read,
    )
