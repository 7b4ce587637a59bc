"""Tiny random LLaMA models, and inputs for them."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from fotmem.models.model_parts import cache_argument
from fotmem.stores import MemoryStore

VOCABULARY, PAD, BOS, EOS = 97, 0, 1, 2
LAYERS, WINDOW = (1, 3), 16

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}

VARIANTS: dict[str, dict[str, Any]] = {
    "gqa": {},
    "mha": {"num_key_value_heads": 4},
    "one_head": {"num_attention_heads": 1, "num_key_value_heads": 1},
    "theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    "llama3": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 1e4,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        }
    },
    "yarn": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 4.0,
            "original_max_position_embeddings": 16,
        }
    },
    "tied": {"tie_word_embeddings": True},
    "head_dim": {"head_dim": 24},
    "bias": {"attention_bias": True, "mlp_bias": True},
}


def cached(cache: object) -> dict[str, Any]:
    """Return the argument that passes a cache in: transformers 5.24 renamed it."""
    return {cache_argument(LlamaForCausalLM): cache}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Keep torch to one thread, in test files that import this: more only slow tiny models down."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def llama(
    variant: str = "gqa",
    *,
    seed: int = 0,
    attention: str = "sdpa",
    dtype: torch.dtype = torch.float32,
    trainable: bool = False,
    **overrides: Any,
) -> LlamaForCausalLM:
    """Build a model whose every parameter is random, biases and norms included."""
    config = LlamaConfig(**{**_SIZES, **VARIANTS[variant], **overrides})
    config._attn_implementation = attention
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    scale = 0.2 * (32 / config.hidden_size) ** 0.5
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        with torch.no_grad():
            parameter.copy_(1 + 0.1 * noise if "norm" in name else scale * noise)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.eval().requires_grad_(trainable)
    return model


def ids(length: int, *, seed: int = 0) -> Tensor:
    """Draw token ids ``[1, length]``, none of them special."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randint(3, VOCABULARY, (1, length), generator=generator)


def rows(*lengths: int, seed: int = 0) -> list[Tensor]:
    """Draw token ids ``[1, length]`` of several rows."""
    return [ids(length, seed=seed + i) for i, length in enumerate(lengths)]


def padded(texts: Sequence[Tensor], side: str = "left") -> tuple[Tensor, Tensor]:
    """Pack rows ``[1, length]`` into ids and attention mask ``[B, longest]``."""
    longest = max(text.shape[1] for text in texts)
    tokens = torch.full((len(texts), longest), PAD)
    mask = torch.zeros_like(tokens)
    for row, text in enumerate(texts):
        length = text.shape[1]
        place = slice(longest - length, longest) if side == "left" else slice(length)
        tokens[row, place], mask[row, place] = text[0], 1
    return tokens, mask


def generate(model: Any, ids: Tensor | None, new_tokens: int, **options: Any) -> Any:
    """Generate greedily unless told otherwise, and never stop early."""
    greedy = {"do_sample": False, "eos_token_id": None, "pad_token_id": PAD}
    return model.generate(ids, max_new_tokens=new_tokens, **{**greedy, **options})


def contents(store: MemoryStore) -> tuple[Tensor, Tensor]:
    """Return all keys and values of a store, ``[H, N, D]`` each."""
    every = torch.arange(store.first_id, store.next_id).expand(store.num_heads, 1, -1)
    return store.keys(every)[:, 0], store.values(every)[:, 0]


def difference(actual: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference; shapes must agree."""
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    if actual.numel() == 0:
        return 0.0
    return float((actual.detach().double() - expected.detach().double()).abs().max())


def rotated(vectors: Tensor, positions: Tensor, theta: float = 10_000) -> Tensor:
    """Rotary embedding of ``[T, heads, D]`` in the half-split layout, as it is defined."""
    half = vectors.shape[2] // 2
    angles = positions[:, None] * theta ** (-torch.arange(half) / half)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    first, second = vectors[..., :half], vectors[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
