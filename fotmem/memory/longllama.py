"""Loads released Focused Transformer checkpoints (LongLLaMA) without their remote code."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fotmem.arguments import checked_last_context_length
from fotmem.errors import CheckpointError
from fotmem.memory.attachment import attach_to
from fotmem.memory.memory import Memory
from fotmem.memory.options import MemoryOptions
from fotmem.models.checkpoint_files import NO_CODE, check_attention, check_files
from fotmem.models.model_parts import model_parts

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

MEMORY_FIELDS = {
    "mem_layers": [],
    "mem_positionals": True,
    "mem_dtype": "bfloat16",
    "last_context_length": 1024,
}
"""Fields of the released config, with the original code's defaults."""

LLAMA_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "use_cache",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "tie_word_embeddings",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "attention_bias",
    "attention_dropout",
    "mlp_bias",
    "dtype",
)
"""Fields of LLaMA's own config. ``mem_attention_grouping`` only trades speed for memory."""

REFUSED_FIELDS = {"add_cross_attention": False, "is_encoder_decoder": False, "pruned_heads": {}}
"""Fields that would change the result, with the value that does not."""


def load_longllama(
    directory: str | os.PathLike[str],
    store: str = "exact",
    last_context_length: int | None = None,
    **options: Any,
) -> tuple[LlamaForCausalLM, Memory]:
    """Load a checkpoint in the released LongLLaMA layout as a LLaMA with memory attached.

    It answers as the original code does (Tworkowski et al. 2023, arXiv:2307.03170): with dense
    attention to memory (``top_k=None``), and input beyond `last_context_length` in windows of the
    config's ``max_position_embeddings``.

    Parameters
    ----------
    directory : path
        Holds ``config.json`` (``model_type: longllama``) and the weights, as safetensors or
        PyTorch files; of these, only tensors are unpickled. Its Python files are not run.
    store : str
        Name of the store.
    last_context_length : int, optional
        Tokens that stay local. Default: the config's.
    **options
        The store's own.

    Returns
    -------
    model : transformers.LlamaForCausalLM
        In the dtype of the config, in eval mode, on CPU.
    memory : Memory
        Attached and empty.

    Raises
    ------
    CheckpointError
        It is not such a checkpoint, or a field of its config is not supported.
    """
    from transformers import LlamaForCausalLM

    if not isinstance(directory, str | os.PathLike):
        raise CheckpointError(f"directory must be the path of a checkpoint, got {directory!r}")
    path = Path(directory)
    config = _llama_config(_read_config(path))
    last = config.last_context_length if last_context_length is None else last_context_length
    checked_last_context_length(last, config.max_position_embeddings)
    try:
        check_attention(config)
        check_files(path)
        loaded: Any = LlamaForCausalLM.from_pretrained(
            path, config=config, output_loading_info=True, weights_only=True, **NO_CODE
        )
    except Exception as error:  # safetensors, pickle and torch each have their own
        raise CheckpointError(
            f"the weights in {path} cannot be loaded: {error}; "
            "expected those of a complete checkpoint"
        ) from error
    model, info = loaded
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise CheckpointError(
            f"{path} lacks {len(missing)} weights, among them {missing[0]}; "
            "copy or download it again"
        )
    model.eval()
    parts = model_parts(model)
    released = {
        "top_k": None,
        "window": config.max_position_embeddings,
        "last_context_length": last,
        "split_above": last,
        "distance": 0,
        "recent": 0,
        "decay": 0,
        "temperature": 1,
    }
    memory = attach_to(parts, store, None, MemoryOptions.choose(parts, released), options)
    return model, memory


def _read_config(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is not a checkpoint: it has no config.json; pass the folder that has one"
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{file} cannot be read as JSON: {error}; copy or download it again"
        ) from error
    kind = fields.get("model_type") if isinstance(fields, dict) else None
    if kind != "longllama":
        raise CheckpointError(
            f"{file} must have model_type 'longllama', got {kind!r}; "
            f"for other models use from_pretrained and fotmem.attach"
        )
    return dict(fields)


def _llama_config(fields: dict[str, Any]) -> Any:
    """Return a LLaMA config with the memory fields; refuse fields that would be lost."""
    from transformers import LlamaConfig

    memory = {name: fields.get(name, default) for name, default in MEMORY_FIELDS.items()}
    layers = memory["mem_layers"]
    if not isinstance(layers, list) or not all(type(layer) is int for layer in layers):
        raise CheckpointError(f"mem_layers must be a list of layer indices, got {layers!r}")
    if not isinstance(memory["mem_positionals"], bool):
        raise CheckpointError(
            f"mem_positionals must be true or false, got {memory['mem_positionals']!r}"
        )
    scaling = fields.get("rope_scaling") or fields.get("rope_parameters") or {}
    if not isinstance(scaling, dict):
        raise CheckpointError(f"rope_scaling must be null or an object, got {scaling!r}")
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind not in (None, "default", "linear", "llama3", "yarn"):
        raise CheckpointError(
            f"rope_scaling of type {kind!r} is not supported: its frequencies depend on the "
            "length; set it to null, which gives the same results up to max_position_embeddings"
        )
    for name, harmless in REFUSED_FIELDS.items():
        if fields.get(name, harmless) not in (harmless, None):
            raise CheckpointError(
                f"{name}={fields[name]!r} is not supported: no released LongLLaMA model uses it; "
                f"remove it, or set it to {harmless!r}"
            )
    kept = {name: fields[name] for name in LLAMA_FIELDS if fields.get(name) is not None}
    if "dtype" not in kept and fields.get("torch_dtype") is not None:
        kept["dtype"] = fields["torch_dtype"]
    try:
        config = LlamaConfig(**kept)
    except Exception as error:  # transformers' own types of error vary
        raise CheckpointError(
            f"config.json describes no LLaMA: {error}; expected that of a released checkpoint"
        ) from error
    for name, value in memory.items():
        setattr(config, name, value)
    return config
