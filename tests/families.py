"""A tiny model of every family that fotmem has an adapter for, and what its config can vary."""

from typing import Any

import pytest
import torch
import transformers

from fotmem_decoders.families import FAMILIES

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
SLIDING: dict[str, Any] = {
    "sliding_window": 6,
    "layer_types": ["sliding_attention", "full_attention"],
}
ROPE: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    "longrope": {
        "rope_type": "longrope",
        "factor": 4.0,
        "original_max_position_embeddings": 32,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [2.0, 2.1, 2.2, 2.3],
    },
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "proportional": {"rope_type": "proportional", "partial_rotary_factor": 0.5},
}
"""``rope_parameters`` of every type that transformers knows."""
ROPE = {kind: {"rope_theta": 1e4, **parameters} for kind, parameters in ROPE.items()}
YARN_IN_FULL_LAYERS = {"full_attention": ROPE["yarn"], "sliding_attention": ROPE["default"]}
HALF_LONGROPE = {
    **ROPE["longrope"],
    "partial_rotary_factor": 0.5,
    "short_factor": [1.0, 1.1],
    "long_factor": [2.0, 2.1],
}
EXPERTS: dict[str, Any] = {
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    "moe_num_experts": 4,
    "n_shared_experts": 1,
}
"""The same sizes, by the names that families have for them."""

VARIED: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("aria-text", "ernie4-5-moe", "flex-olmo", "granitemoe"), EXPERTS),
    **dict.fromkeys(("granitemoeshared", "hunyuan-v1-moe", "hy-v3", "minimax-m2"), EXPERTS),
    **dict.fromkeys(("mixtral", "phimoe", "solar-open"), EXPERTS),
    **dict.fromkeys(("cwm", "exaone4", "ministral", "olmo3"), SLIDING),
    **dict.fromkeys(
        ("cohere2-moe", "dots1", "exaone-moe", "kolibri1", "mellum"), SLIDING | EXPERTS
    ),
    "arcee": {"attention_bias": True},
    "cohere": {"use_qk_norm": True},
    "cohere2": SLIDING,
    "gemma2": {**SLIDING, "attn_logit_softcapping": None},
    "gemma3": SLIDING,
    "glm4-moe": {**EXPERTS, "use_qk_norm": True},
    "granite": {"attention_multiplier": 0.7},
    "jais2": {"attention_bias": True},
    "mistral": {"sliding_window": 6},
    "olmo": {"clip_qkv": 0.5},
    "olmoe": {**EXPERTS, "clip_qkv": 0.5},
    "phi": {"qk_layernorm": True},
    "phi3": {"rope_parameters": HALF_LONGROPE},
    "qwen2": {"use_sliding_window": True, **SLIDING},
    "qwen2-moe": {"use_sliding_window": True, **SLIDING, **EXPERTS},
    "qwen3": {"use_sliding_window": True, **SLIDING},
    "qwen3-moe": {**EXPERTS, "use_sliding_window": True, "sliding_window": 6},
    "smollm3": {"no_rope_layers": [1, 0]},
    "stablelm": {"qk_layernorm": True, "use_qkv_bias": True},
    "starcoder2": {"use_bias": True, "sliding_window": None},
    "vaultgemma": {**SLIDING, "attn_logit_softcapping": None},
}
"""What the config of a family needs, or can vary, besides sizes."""


def tiny(family: str, **overrides: Any) -> Any:
    """Build a tiny model of a family, by the name of its adapter; skip the test without it."""
    kind: Any = getattr(transformers, FAMILIES[family][0], None)
    if kind is None:
        pytest.skip(f"transformers {transformers.__version__} has no {FAMILIES[family][0]}")
    config = kind.config_class(**{**SIZES, **VARIED.get(family, {}), **overrides})
    torch.manual_seed(0)
    return kind(config).eval()
