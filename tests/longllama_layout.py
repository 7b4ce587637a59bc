"""Writes checkpoints in the layout of the released LongLLaMA models."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

RELEASED: dict[str, Any] = {  # fields of a released config.json beside the sizes
    "architectures": ["LongLlamaForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_longllama.LongLlamaConfig",
        "AutoModelForCausalLM": "modeling_longllama.LongLlamaForCausalLM",
    },
    "model_type": "longllama",
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "gradient_checkpoint_every_ith": 1,
    "mem_attention_grouping": None,
    "mem_dtype": "float32",
    "mem_layers": [1, 3],
    "mem_positionals": True,
    "last_context_length": 10,
    "max_position_embeddings": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "add_cross_attention": False,
    "is_encoder_decoder": False,
    "pruned_heads": {},
    "tie_word_embeddings": False,
    "torch_attention": False,
    "torch_dtype": "float32",
    "transformers_version": "4.30.0",
    "use_cache": True,
}
SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)


def released(model: LlamaForCausalLM, **fields: Any) -> dict[str, Any]:
    """Describe a model in the released layout (which knows no grouped queries)."""
    return {**RELEASED, **{name: getattr(model.config, name) for name in SIZES}, **fields}


def write(
    folder: Path, model: LlamaForCausalLM, config: dict[str, Any], form: str = "safetensors"
) -> None:
    """Write a checkpoint as it was released; tied embeddings are written once."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if config["tie_word_embeddings"]:
        del weights["lm_head.weight"]
    save: Callable[..., object]
    if form.endswith("bin"):
        stem, suffix, save = "pytorch_model", ".bin", torch.save
    else:
        stem, suffix, save = "model", ".safetensors", save_file
    if not form.startswith("sharded"):
        save(weights, folder / f"{stem}{suffix}")
        return
    names = sorted(weights)
    shards = {f"{stem}-0000{i}-of-00002{suffix}": names[i - 1 :: 2] for i in (1, 2)}
    for file, chosen in shards.items():
        save({name: weights[name] for name in chosen}, folder / file)
    places = {name: file for file, chosen in shards.items() for name in chosen}
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(index))
