"""Writes a memory to a directory, and fills one from it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fotmem.arguments import checked_decay, is_text
from fotmem.directory.facts import LONGEST, Fingerprint, ReadingFacts
from fotmem.directory.manifest import MemoryManifest
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.disk import LayerShape
from fotmem.disk.quantization import BITS, Quantization
from fotmem.errors import (
    AttachError,
    InputError,
    NonFiniteError,
    OptionError,
    StorageError,
    shown,
)
from fotmem.interrupts import interrupts_deferred
from fotmem.memory.contents import BULK, Contents, looked_up_range
from fotmem.memory.kept_indexes import fill_stores, keep_indexes
from fotmem.memory.text_to_read import TokenRows
from fotmem.models.fingerprint import model_fingerprint, tokenizer_fingerprint

if TYPE_CHECKING:
    from fotmem.memory.attached import AttachedModel

LOG = logging.getLogger(__name__)
SAVED_OPTIONS = (
    *("window", "last_context_length", "top_k"),
    *("distance", "recent", "decay", "temperature"),
)
"""The memory options that a directory keeps."""
COMMIT = 8192
"""Tokens after which a reading commits."""


def facts_of(attached: AttachedModel, *, model: str = "", tokenizer: str = "") -> ReadingFacts:
    """Describe a model and how its memory is looked at."""
    if not is_text(model) or len(model) > LONGEST:
        raise InputError(
            f"model must be a name of at most {LONGEST} characters, got {shown(model)}"
        )
    options = attached.options
    return ReadingFacts(
        model=model,
        tokenizer=tokenizer,
        fingerprint=fingerprint_of(attached, twice=True),
        **{name: getattr(options, name) for name in SAVED_OPTIONS},
    )


def fingerprint_of(attached: AttachedModel, *, twice: bool) -> Fingerprint:
    """Describe what the keys and values of a model depend on; see `model_fingerprint`."""
    how = {"positionals": attached.options.positionals, "twice": twice}
    return model_fingerprint(attached.parts, attached.adapters, **how)


def differences(mine: Fingerprint, attached: AttachedModel) -> list[str]:
    """Describe in what a model differs; what takes longer is compared only if it may matter."""
    found = mine.differences(fingerprint_of(attached, twice=False))
    return found and mine.differences(fingerprint_of(attached, twice=True))


def save(
    attached: AttachedModel,
    path: Path | str,
    *,
    model: str,
    tokenizer: object,
    quantization: Quantization | None,
) -> Contents:
    """Write a memory to a directory; return its contents from now on. See `Memory.save`."""
    require_known(quantization)
    contents, kept = attached.contents, attached.contents.directory
    if kept is not None and kept.is_at(path):
        if quantization is not None:
            require_same_options({"quantization": quantization}, kept.manifest, kept.name)
        commit(contents, kept)
        return contents
    known = "" if tokenizer is None else tokenizer_fingerprint(tokenizer)
    written = _written(
        path, contents, facts_of(attached, model=model, tokenizer=known), quantization
    )
    if quantization is None:
        keep_indexes(contents.stores, written)
    if kept is not None:
        written.close()
        return contents
    if quantization is not None:  # what is read back has lost something
        contents = filled(contents.begun_anew(written.compactions), written)
    contents.directory = written
    return contents


def require_known(quantization: object) -> None:
    """Raise `OptionError` unless this is a quantization, or None."""
    if quantization is not None and quantization not in BITS:
        raise OptionError.unknown(str(quantization), "a memory", BITS, kind="quantization")


def require_same_options(wanted: Mapping[str, Any], manifest: MemoryManifest, name: str) -> None:
    """Raise `OptionError` if an option is wanted with another value than a directory has."""
    has = {
        **manifest.facts.model_dump(),
        "layers": [each.layer for each in manifest.layers],
        "quantization": manifest.layers[0].quantization,
    }
    for option, given in wanted.items():
        value: Any = checked_decay(given) if option == "decay" else given
        if (sorted(value) if option == "layers" else value) != has[option]:
            raise OptionError(
                f"{option} is chosen when a directory is begun: {name} has "
                f"{_said(option, has[option])}, wanted {_said(option, value)}; leave it out, or "
                "take another directory"
            )


def _said(option: str, value: object) -> str:
    """Write the value of an option as a command takes it."""
    if value is None:
        return "all" if option == "top_k" else "none"
    if isinstance(value, dict):
        value = [f"{layer}:{power:g}" for layer, power in value.items()]
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _written(
    path: Path | str, contents: Contents, facts: ReadingFacts, quantization: Quantization | None
) -> MemoryDirectory:
    """Begin a directory for a memory, and write all that it holds; if that fails, remove it."""
    shapes = {
        layer: LayerShape(store.num_heads, store.head_dim, store.dtype)
        for layer, store in contents.stores.items()
    }
    directory = MemoryDirectory.create(path, shapes, facts, quantization)
    try:
        commit(contents, directory)
    except BaseException:
        directory.discard()
        raise
    return directory


def commit(contents: Contents, directory: MemoryDirectory) -> None:
    """Make durable what was read since the last commit."""
    length = max(1, BULK // max(s.num_heads * s.head_dim for s in contents.stores.values()))
    with interrupts_deferred():
        directory.recover()
        for start in range(len(directory), len(contents), length):
            stop = min(start + length, len(contents))
            pieces = {
                layer: looked_up_range(store, start, stop)
                for layer, store in contents.stores.items()
            }
            directory.append(*contents.text.rows(start, stop), pieces)
        directory.commit(contents.text.documents)
        LOG.info("committed: %s holds %s tokens", directory.name, f"{len(directory):,}")
        if contents.appends_only:
            for store in contents.stores.values():
                store.forget(len(store))


def remove(contents: Contents, name: str) -> None:
    """Hide a document from all searches; where contents are kept, commit that."""
    text, directory = contents.text, contents.directory
    if directory is not None:
        directory.require_writable()
    text.require([name])
    before = text.remove(name)
    if directory is not None:
        try:
            commit(contents, directory)
        except StorageError:
            text.restore(before)
            raise


def commit_if_behind(contents: Contents) -> None:
    """Commit what an earlier commit could not, such as on a full disk."""
    directory = contents.directory
    if directory is not None and not directory.has_committed(contents.text.documents):
        commit(contents, directory)


def commit_if_due(contents: Contents) -> None:
    """Commit if enough was read since the last commit, and the memory is kept in a directory."""
    directory = contents.directory
    if directory is not None and len(contents) - len(directory) >= COMMIT:
        commit(contents, directory)


def filled(contents: Contents, directory: MemoryDirectory, *, progress: bool = False) -> Contents:
    """Return contents with all that their directory holds.

    They are the ones that were given, with what was committed since; or new ones, if documents were
    dropped from the directory, now or while its files are read: the ids of tokens have changed.
    """
    while True:
        if contents.compactions != directory.compactions:
            contents = contents.begun_anew(directory.compactions)
        try:
            _fill(contents, directory, progress=progress)
            return contents
        except StorageError:
            if not directory.refresh() or contents.compactions == directory.compactions:
                raise


def _fill(contents: Contents, directory: MemoryDirectory, *, progress: bool) -> None:
    """Add to a memory what its directory holds beyond it."""
    start, stop = len(contents), len(directory)
    with contents.changing():
        if contents.appends_only:
            for store in contents.stores.values():
                store.start_at(stop)
        else:
            try:
                fill_stores(contents.stores, directory, start, progress=progress)
            except BaseException as error:
                contents.shorten()  # some stores may hold a part of it
                if isinstance(error, NonFiniteError):
                    raise StorageError(f"{directory.name} cannot be used: {error}") from error
                raise
        rows = TokenRows(*directory.tokens(start, stop))
        contents.text.extend(rows, directory.manifest.documents)


def refreshed(contents: Contents, directory: MemoryDirectory) -> Contents | None:
    """Return contents as of the last commit of the directory's writer; None: it is not newer."""
    is_newer = directory.refresh()  # or it was before, and filling the stores has failed
    same_ids = contents.compactions == directory.compactions
    if same_ids and len(contents) >= len(directory) and not is_newer:
        return None
    return filled(contents, directory)


def require_known_tokens(contents: Contents, vocabulary: int, name: str) -> None:
    """Raise `StorageError` if a memory has tokens that its model does not have."""
    ids = contents.tokens
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
        raise StorageError(
            f"the tokens in {name} are from {int(ids.min())} to {int(ids.max())}, and the model "
            f"knows those from 0 to {vocabulary - 1}: the directory is damaged or made up; restore "
            "it from a copy"
        )


def require_same_model(facts: ReadingFacts, attached: AttachedModel, name: str) -> None:
    """Raise `StorageError` unless a memory was filled by this model."""
    if lines := differences(facts.fingerprint, attached):
        model = f" ({facts.model})" if facts.model else ""
        raise StorageError(
            f"the memory in {name} was filled by another model{model}: {'; '.join(lines)}. Load "
            "the model that filled it, or read the text again into another directory"
        )


def require_same_shapes(directory: MemoryDirectory, contents: Contents) -> None:
    """Raise `StorageError` unless keys in a directory are as long as those of the model."""
    for each in directory.manifest.layers:
        store, shape = contents.stores[each.layer], each.shape
        if (shape.heads, shape.head_dim) != (store.num_heads, store.head_dim):
            raise StorageError(
                f"layer {each.layer} of {directory.name} has {shape.heads} heads of "
                f"{shape.head_dim} dimensions, and the model {store.num_heads} of "
                f"{store.head_dim}: the directory is made up; restore it from a copy"
            )


def require_equal_models(before: AttachedModel, now: AttachedModel) -> None:
    """Raise `AttachError` unless two models compute the same keys and values."""
    if lines := differences(fingerprint_of(before, twice=True), now):
        raise AttachError(
            f"the memory was filled by another model: {'; '.join(lines)}. Attach it to that one"
        )


def require_same_tokenizer(facts: ReadingFacts, tokenizer: object, name: str) -> None:
    """Raise `StorageError` if the texts of a memory were tokenized by another tokenizer."""
    if facts.tokenizer and facts.tokenizer != (known := tokenizer_fingerprint(tokenizer)):
        raise StorageError(
            f"the texts in {name} were tokenized by another tokenizer: the memory has "
            f"{facts.tokenizer}, this one is {known}; load the tokenizer of the model that "
            "read them"
        )
