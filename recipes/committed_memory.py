"""Writes the small memories of `tests/data`, which every later version of fotmem must open.

Run once for each version of the format, by ``python -m recipes.committed_memory``: what lies there
stands for the memories that users have. The model's weights come from a hash, so that any version
of torch makes the same ones.
"""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import fotmem
from fotmem.directory import memory_directory
from fotmem.directory.compact import compact
from fotmem.disk.quantization import Quantization
from fotmem.documents import Document, TokenizedDocument
from recipes.stopping import run_recipe

FOLDER = Path("tests/data")
EXPECTED = "memories.json"
"""What the memories hold, and what they answer."""
VERSION, BLOCK = 1, 64
"""Of the format; and rows of a block: a part, and pieces after it."""
LAYERS, WINDOW = (1, 3), 16
TEXTS = {
    "harbour.txt": "The harbour master counts the boats at dusk. Two are missing tonight.",
    "draft.txt": "A draft that nobody shall ever read again.",
    "letter.txt": "Dear Ada, the lamp burns all night now. Come home before the ice does.",
    "notes.txt": "Oil for the lamp; rope; a new bell.",
}
QUESTION = "Who counts?"


class Kind(NamedTuple):
    """How a memory is kept."""

    dtype: torch.dtype
    quantization: Quantization | None


KINDS = {
    "plain": Kind(torch.bfloat16, None),
    "int8": Kind(torch.float32, "int8"),
    "int4": Kind(torch.bfloat16, "int4"),
}


def main() -> None:
    """Write all memories, packed, and what is expected of them."""
    expected = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, kind in KINDS.items():
            path = Path(folder, name)
            write(path, kind)
            (path / ".lock").unlink()
            shutil.make_archive(str(packed(name).with_suffix("")), "zip", path)
            with opened(path) as memory:
                expected[name] = facts(memory)
    (FOLDER / EXPECTED).write_text(json.dumps(expected) + "\n", encoding="utf-8")


def packed(name: str) -> Path:
    """Return the file of a memory of this version of the format."""
    return FOLDER / f"memory-{VERSION}-{name}.zip"


def write(path: Path, kind: Kind) -> None:
    """Read some texts, remove one and compact, then remove another one."""
    memory = fotmem.attach(model(), layers=LAYERS, window=WINDOW, top_k=4, dtype=kind.dtype)
    with patch.object(memory_directory, "BLOCK", BLOCK):
        memory.save(path, quantization=kind.quantization)
    for name in TEXTS:
        memory.read(tokenized(name), overlap=3)
    memory.read(ids(TEXTS["notes.txt"]))
    memory.remove("draft.txt")
    memory.close()
    compact(path)
    with fotmem.open_memory(path, model(), writable=True) as again:
        again.remove("notes.txt")
        again.close()


def opened(path: Path, **options: Any) -> fotmem.Memory:
    """Open a memory with a model like the one that filled it."""
    return fotmem.open_memory(path, model(), **options)


def model() -> LlamaForCausalLM:
    """Make the model."""
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=36,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    made: LlamaForCausalLM = LlamaForCausalLM(config).float().eval().requires_grad_(False)
    for name, parameter in made.named_parameters():
        noise = _noise(name, parameter.numel()).view(parameter.shape)
        parameter.copy_(1 + noise / 8 if "norm" in name else noise / 4)
    return made


def tokenized(name: str) -> TokenizedDocument:
    """Take the characters of a text as its tokens."""
    text = TEXTS[name]
    places = torch.arange(len(text))
    return TokenizedDocument(Document(name, text), ids(text), places, places + 1)


def ids(text: str) -> Tensor:
    """Return the characters of a text in ASCII."""
    return torch.tensor(list(text.encode("ascii")))


def facts(memory: fotmem.Memory) -> dict[str, Any]:
    """Return what a memory holds, and what it answers."""
    answers = {}
    for top_k in (4, None):
        memory.top_k = top_k
        answers[str(top_k)] = [float(f"{each:.7g}") for each in answer(memory)]
    return {
        "tokens": memory.tokens.tolist(),
        "documents": [
            [each.name, each.first, each.tokens, each.characters, each.sha256, each.is_complete]
            for each in memory.documents
        ],
        "read_at": [each.read_at.isoformat() for each in memory.documents],
        "layers": {str(layer): checksums(memory, layer) for layer in memory.layers},
        "answers": answers,
    }


def answer(memory: fotmem.Memory) -> Tensor:
    """Return the logits ``[V]`` after the question."""
    logits: Tensor = memory.attached_model.parts.model(ids(QUESTION)[None]).logits
    return logits[0, -1]


def checksums(memory: fotmem.Memory, layer: int) -> list[str]:
    """Return the SHA-256 of all keys, and of all values, as float32 in little-endian order."""
    store = memory.store(layer)
    every = torch.arange(len(memory.tokens)).expand(store.num_heads, 1, -1)
    found = []
    for vectors in (store.keys(every), store.values(every)):
        data = vectors.float().numpy().astype("<f4").tobytes()
        found.append(hashlib.sha256(data).hexdigest())
    return found


def _noise(name: str, count: int) -> Tensor:
    """Return numbers from -1 to below 1, multiples of 1/128, which a hash of a name gives."""
    data = hashlib.shake_256(name.encode()).digest(count)
    return torch.from_numpy((np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128)


if __name__ == "__main__":
    run_recipe(main)
