"""Tells whether two models compute the same keys for the same text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import google_crc32c
import torch
from torch import Tensor, nn

from fotmem.adapter import Adapter
from fotmem.directory.facts import Fingerprint
from fotmem.models.model_parts import ModelParts

SEMANTICS = "keys as at the first position"
"""How memory layers store keys; a memory of another way cannot be used."""
ROUNDED = ((torch.bfloat16,), (torch.float16,))
"""Weights are compared in these dtypes; one is not enough: rounding twice differs from rounding
once."""
ROUNDED_TWICE = ((torch.float16, torch.bfloat16), (torch.bfloat16, torch.float16))
"""How float32 weights become those of a checkpoint in one dtype that is loaded in the other."""
CONFIG = (
    *("hidden_act", "hidden_activation", "expert_selection_fn"),
    *("rms_norm_eps", "layer_norm_eps", "norm_eps", "norm_epsilon"),
    *("attention_multiplier", "attn_logit_softcapping", "clip_qkv", "query_pre_attn_scalar"),
    *("embedding_multiplier", "residual_multiplier", "use_parallel_residual", "no_rope_layers"),
    *("num_experts_per_tok", "moe_k", "moe_topk", "norm_topk_prob", "n_group", "topk_group"),
    *("routed_scaling_factor", "router_scaling_factor"),
)
"""Entries of a config that change keys, and that neither weights nor shapes show."""

UNCOUNTED = ("_name_or_path", "transformers_version")
"""Entries of a config that say nothing about a model's answers."""


def model_fingerprint(
    parts: ModelParts, adapters: Mapping[int, Adapter], *, positionals: bool, twice: bool = False
) -> Fingerprint:
    """Describe what the keys and values of a model's memory layers depend on.

    Weights count as rounded to bfloat16 or to float16, and with `twice` also to one after the
    other: the same checkpoint in another floating dtype is the same model.
    """
    config = parts.decoder.config
    rope = getattr(config, "rope_parameters", None)
    shapes = {layer: adapters[layer].geometry(parts.attentions[layer]) for layer in adapters}
    kinds = sorted({type(adapter).__name__ for adapter in adapters.values()})
    positions = SEMANTICS if positionals else "keys without positions"
    rounded = ROUNDED + ROUNDED_TWICE if twice else ROUNDED
    return Fingerprint(
        architecture=f"{type(parts.model).__name__}, H and D of layers {_sizes(shapes)}",
        config=_entries(config),
        weights=" ".join(_weights(parts, max(adapters), dtypes) for dtypes in rounded),
        adapter=", ".join(kinds),
        rope=f"{_digest(json.dumps(rope, sort_keys=True, default=str))}, {positions}",
    )


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Return a checksum of a tokenizer's vocabulary and rules."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return _digest(json.dumps(sorted(tokenizer.get_vocab().items())))
    rules = json.loads(backend.to_str())
    return _digest(
        json.dumps({key: rules[key] for key in rules if key not in ("truncation", "padding")})
    )


def model_digest(model: Any, tokenizer: Any) -> str:
    """Return a checksum of all that a model's answers depend on: weights, configs, tokenizer."""
    lines = [f"{name} {_checksum(weight, ())}" for name, weight in model.named_parameters()]
    for config in (model.config, model.generation_config):
        entries = {
            name: value for name, value in config.to_diff_dict().items() if name not in UNCOUNTED
        }
        lines.append(json.dumps(entries, sort_keys=True, default=str))
    return _digest("\n".join([*lines, tokenizer_fingerprint(tokenizer)]))


def _sizes(shapes: Mapping[int, tuple[int, int, float]]) -> str:
    return ", ".join(f"{layer}: {heads} x {dim}" for layer, (heads, dim, _) in shapes.items())


def _entries(config: Any) -> str:
    found = {name: getattr(config, name, None) for name in CONFIG}
    return ", ".join(f"{name} {value}" for name, value in found.items() if value is not None)


def _weights(parts: ModelParts, last: int, dtypes: Iterable[torch.dtype]) -> str:
    lines = [
        f"{name} {list(weight.shape)} {_checksum(weight, dtypes)}"
        for name, weight in _weights_up_to(parts, last)
    ]
    return _digest("\n".join(lines))


def _weights_up_to(parts: ModelParts, last: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the decoder's parameters, but those of the layers after `last`."""
    decoder: nn.Module = parts.decoder
    names = {id(module): name for name, module in decoder.named_modules()}
    later = tuple(
        ".".join(names[id(attention)].split(".")[:-1]) + "."
        for attention in parts.attentions[last + 1 :]
    )
    for name, weight in decoder.named_parameters():
        if not later or not name.startswith(later):
            yield name, weight


def _checksum(weight: Tensor, dtypes: Iterable[torch.dtype]) -> str:
    """Compute the crc32c of a weight, rounded to dtypes if it is a floating point number."""
    plain = weight.detach().cpu()
    for dtype in dtypes if plain.is_floating_point() else ():
        plain = plain.to(dtype)
    data = plain.contiguous().flatten().view(torch.uint8).numpy()
    return f"{google_crc32c.value(data.tobytes()):08x}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
