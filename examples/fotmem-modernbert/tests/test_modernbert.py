"""The adapter keeps the contract, whatever a config can vary."""

from typing import Any

import pytest
from transformers import ModernBertDecoderConfig, ModernBertDecoderForCausalLM

from fotmem.testing import AdapterContract

YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
PLAIN = {"rope_type": "default", "rope_theta": 1e4}


class TestModernBertDecoderAdapter(AdapterContract):
    @pytest.fixture(
        params=[
            {"attention_bias": True},
            {"rope_parameters": {"full_attention": YARN, "sliding_attention": PLAIN}},
        ],
        ids=["biases", "yarn"],
    )
    def model(self, request: Any) -> ModernBertDecoderForCausalLM:
        config = ModernBertDecoderConfig(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            local_attention=8,
            layer_types=["sliding_attention", "full_attention"],
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            cls_token_id=1,
            sep_token_id=2,
            **request.param,
        )
        return ModernBertDecoderForCausalLM(config)
