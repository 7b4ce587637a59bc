"""Checkpoint folders and GGUF files with a tiny model, and tokenizers of three kinds."""

import json
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tests import tiny

PROSE = "\n".join(topics.values())[:100_000]
"""Text that every Python has."""

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
VOCABULARY = 400
CHAT = (
    "{% for m in messages %}<s>{{ m.role }}:{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def tokenizer(kind: str = "digits", **options: Any) -> PreTrainedTokenizerFast:
    """Train a tokenizer.

    ``digits``: as SmolLM2's, every digit alone, and so is the space before a number. ``numbers``:
    as GPT-2's, a space belongs to the digits after it, and several digits may be one token.
    ``llama``: as LLaMA's, a space before whatever it is given, digits alone, a start token.
    """
    trained = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=kind == "llama"))
    if kind == "llama":
        trained.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        trained.pre_tokenizer = pre_tokenizers.Split(Regex(r"\d|▁(?=\d)|▁?[^▁\d]+"), "isolated")
        trained.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
        alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(
            special_tokens=SPECIAL + alphabet, vocab_size=VOCABULARY, show_progress=False
        )
    else:
        bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False)
        digits = pre_tokenizers.Digits(individual_digits=True)
        trained.pre_tokenizer = (
            pre_tokenizers.Sequence([digits, bytes_of]) if kind == "digits" else bytes_of
        )
        trained.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            special_tokens=SPECIAL,
            vocab_size=VOCABULARY,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
    numbers = [f" {number}" for number in range(10, 100)] * 1000 if kind == "numbers" else []
    trained.train_from_iterator([PROSE[:20_000], *numbers], trainer)
    if kind == "llama":
        trained.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=trained,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        **options,
    )


def model(**overrides: Any) -> LlamaForCausalLM:
    """Build a tiny LLaMA for these tokenizers, whose config names its memory layers."""
    sizes = {"vocab_size": VOCABULARY, "max_position_embeddings": 64, "mem_layers": [1, 3]}
    return tiny.llama(**{**sizes, **overrides})


def write(folder: Path, kind: str = "digits", *, chat: bool = False, **overrides: Any) -> Path:
    """Save a tiny model and its tokenizer as transformers does; chat models are made to sample."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny_model = model(**overrides)
    options: dict[str, Any] = {"model_max_length": 64}
    if chat:
        tiny_model.generation_config.update(do_sample=True, temperature=0.6, top_p=0.9)
        options["chat_template"] = CHAT
    tiny_model.save_pretrained(folder)
    tokenizer(kind, **options).save_pretrained(folder)
    return folder


def write_gguf(path: Path) -> Path:
    """Save the same, as llama.cpp does."""
    tiny_model, trained = model(), tokenizer()
    config: Any = tiny_model.config
    vocabulary = sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__)
    merges = _merges(trained)
    kinds = [gguf.TokenType.CONTROL] * len(SPECIAL)
    kinds += [gguf.TokenType.NORMAL] * (len(vocabulary) - len(SPECIAL))

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(1e4)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(vocabulary)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_pad_token_id(tiny.PAD)
    writer.add_bos_token_id(tiny.BOS)
    writer.add_eos_token_id(tiny.EOS)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in tiny_model.state_dict().items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        turned = _turned(weight, heads.get(name.split(".")[-2]))
        theirs = names.get_name(name, (".weight",))
        assert theirs
        writer.add_tensor(theirs, turned.numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _merges(trained: PreTrainedTokenizerFast) -> list[str]:
    merges = json.loads(trained.backend_tokenizer.to_str())["model"]["merges"]
    return [" ".join(pair) for pair in merges]


def _turned(weight: torch.Tensor, heads: int | None) -> torch.Tensor:
    """Order the rows of query and key weights as llama.cpp's rotary embedding expects them."""
    if heads is None:
        return weight
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
