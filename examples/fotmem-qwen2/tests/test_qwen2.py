"""Qwen2's adapter keeps the contract, whatever its config can vary."""

from typing import Any

import pytest
from transformers import Qwen2Config, Qwen2ForCausalLM

from fotmem.testing import AdapterContract

SLIDING = {
    "use_sliding_window": True,
    "sliding_window": 6,
    "layer_types": ["sliding_attention", "full_attention"],
}
YARN = {
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
    }
}


class TestQwen2Adapter(AdapterContract):
    @pytest.fixture(params=[{}, SLIDING, YARN], ids=["plain", "sliding", "yarn"])
    def model(self, request: Any) -> Qwen2ForCausalLM:
        config = Qwen2Config(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            **request.param,
        )
        return Qwen2ForCausalLM(config)
