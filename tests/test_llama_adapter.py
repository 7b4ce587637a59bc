"""The LLaMA adapter keeps the contract of adapters."""

from typing import Any

import pytest
from transformers import LlamaForCausalLM

from fotmem.testing import AdapterContract
from tests import tiny


class TestLlamaAdapter(AdapterContract):
    @pytest.fixture(params=["gqa", "one_head", "yarn", "bias"])
    def model(self, request: Any) -> LlamaForCausalLM:
        return tiny.llama(request.param, num_hidden_layers=2)
