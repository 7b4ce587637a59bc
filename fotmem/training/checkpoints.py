"""Completes checkpoints of a training; refuses incomplete, damaged and foreign ones."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import google_crc32c
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor
from transformers.trainer_callback import TrainerState

from fotmem.arguments import differing
from fotmem.errors import CheckpointError, InputError, StorageError
from fotmem.outputs import check_folder, write_bytes
from fotmem.training.options import TrainingOptions

BANK_FILE = "bank.safetensors"
"""Written last into a checkpoint: its presence means that the checkpoint is complete."""
ABOUT_FILE = "training.json"
STATE_FILE = "trainer_state.json"
FREE = ("steps",)
"""Options that may change when a training is resumed."""
BLOCK = 2**22
"""Bytes that are read at once."""


class Training(BaseModel):
    """What is trained, and how; a training is resumed only if it is the same."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    options: TrainingOptions
    model: str
    """A digest of the untrained attention projections."""
    data: str
    """A digest of all tokens to train and to evaluate on."""


class _CheckpointInfo(BaseModel):
    """The training of a checkpoint, and the checksums of its files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fotmem_training: Literal[1] = 1
    """Version of this file."""
    training: Training
    files: dict[str, str]
    """The crc32c of each of its other files."""


def check_output(folder: Path, *, resume: bool) -> None:
    """Check that a training can begin, or be resumed, in a folder.

    Raises
    ------
    InputError
        It holds a training and `resume` is False, or none and `resume` is True.
    StorageError
        It holds other files, or cannot be written.
    """
    checkpoint = last_checkpoint(folder)
    begun = [each.name for each in folder.glob("checkpoint-*")] if checkpoint is None else []
    if begun:
        raise InputError(
            f"{folder} holds no complete checkpoint: a training was killed while it wrote "
            f"{begun[0]}, or another program wrote that; remove the folder and begin, without "
            "resume, or choose another one"
        )
    if resume and checkpoint is None:
        raise InputError(
            f"{folder} holds no complete checkpoint to resume: begin without resume, or name the "
            "folder of a training that was stopped"
        )
    if not resume and checkpoint is not None:
        raise InputError(f"{folder} holds a training already: resume it, or choose another folder")
    check_folder(folder, empty=not resume)


def last_checkpoint(folder: Path) -> Path | None:
    """Find the last complete checkpoint of a training."""
    complete = [file.parent for file in folder.glob(f"checkpoint-*/{BANK_FILE}")]
    numbered = [each for each in complete if re.fullmatch(r"checkpoint-\d{1,12}", each.name)]
    return max(numbered, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def complete(checkpoint: Path, bank: Path, training: Training) -> None:
    """Complete a checkpoint: write its info, and move its bank into place."""
    files = {
        file.name: _checksum(file)
        for file in checkpoint.iterdir()
        if file.is_file() and file != bank
    }
    about = _CheckpointInfo(training=training, files=files | {BANK_FILE: _checksum(bank)})
    write_bytes(checkpoint / ABOUT_FILE, about.model_dump_json(indent=1).encode())
    bank.replace(checkpoint / BANK_FILE)


def check_checkpoint(checkpoint: Path, training: Training) -> None:
    """Check that a checkpoint is undamaged, and of the training that is to be resumed.

    Raises
    ------
    CheckpointError
        It is damaged; the message names the file.
    InputError
        It is of another training; the message names what differs.
    """
    with damage_named(checkpoint / ABOUT_FILE):
        about = _CheckpointInfo.model_validate_json((checkpoint / ABOUT_FILE).read_bytes())
    for name, expected in about.files.items():
        file = checkpoint / name
        with damage_named(file):
            if file.parent != checkpoint or file.is_symlink():
                raise ValueError("it lies elsewhere")
            if _checksum(file) != expected:
                raise ValueError("its checksum is another one")
    for name in (BANK_FILE, STATE_FILE):
        if name not in about.files:
            raise CheckpointError(f"{checkpoint} is damaged ({name} is not listed); remove it")
    with damage_named(checkpoint / STATE_FILE):
        step = TrainerState.load_from_json(str(checkpoint / STATE_FILE)).global_step
        if step != int(checkpoint.name.rpartition("-")[2]):
            raise ValueError(f"it is of step {step}")
    theirs, ours = (each.model_dump(mode="json") for each in (about.training, training))
    differ = [differing(_fixed(theirs["options"]), _fixed(ours["options"]))]
    differ += [f"another {name}" for name in ("model", "data") if theirs[name] != ours[name]]
    if any(differ):
        raise InputError(
            f"{checkpoint} is of another training, with {'; '.join(filter(None, differ))}: resume "
            "it as it was begun, or choose another folder"
        )


@contextmanager
def damage_named(place: Path) -> Iterator[None]:
    """Turn whatever goes wrong while a checkpoint is read into a `CheckpointError`."""
    try:
        yield
    except Exception as error:  # there is no end to what damaged files raise
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        folder = place if place.is_dir() else place.parent
        raise CheckpointError(
            f"{place} is damaged ({reason}): remove {folder.name}, and resume from the checkpoint "
            "before it, or begin anew"
        ) from error


@contextmanager
def writing_named(folder: Path) -> Iterator[None]:
    """Turn whatever goes wrong while files are written into a `StorageError`.

    On a full disk, safetensors and torch raise errors of their own.
    """
    try:
        yield
    except Exception as error:
        raise StorageError(
            f"cannot write {folder} ({error}); make room there, and train again, with resume where "
            "a checkpoint is kept"
        ) from error


def digest(tensors: Iterable[Tensor]) -> str:
    """Return a digest of tensors, which differs between models and between texts."""
    found = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().float() if tensor.is_floating_point() else tensor
        found.update(f"{list(plain.shape)}".encode())
        found.update(plain.cpu().contiguous().numpy().data)
    return found.hexdigest()


def _fixed(options: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in options.items() if name not in FREE}


def _checksum(file: Path) -> str:
    checksum = 0
    with file.open("rb") as opened:
        while block := opened.read(BLOCK):
            checksum = google_crc32c.extend(checksum, block)
    return f"{checksum:08x}"
