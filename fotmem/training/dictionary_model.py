"""A small Qwen3 that looks up records: one of its four layers has a memory."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from fotmem.tasks.dictionary import VOCABULARY, WINDOW

MEMORY_LAYER = 2
GAIN = 1.7
"""Gain of the norms of the memory layer's queries and keys. Scores are 23 at most."""


def new_model(seed: int) -> Any:
    """Make an untrained model of 2.2M parameters.

    Its memory layer uses no positions, not even local ones, as in the paper's small models
    (``mem_positionals`` of the released code). Its queries and keys are normalised, with gains that
    are not trained: it cannot answer many negatives by larger scores, and must separate the keys. A
    token takes 512 bytes of memory in float32.
    """
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(VOCABULARY),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    config.mem_layers, config.mem_positionals = [MEMORY_LAYER], False
    model = Qwen3ForCausalLM(config)
    attention = model.model.layers[MEMORY_LAYER].self_attn
    for norm in (attention.q_norm, attention.k_norm):
        norm.weight.requires_grad_(False).fill_(GAIN)
    return model


def new_tokenizer() -> Any:
    """Make a tokenizer for records as text, such as ``<k> 3 1 4 1 <v> 5 9 2 6``."""
    words = {word: token for token, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="0"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)
