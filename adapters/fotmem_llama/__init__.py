"""The `llama` adapter: memory layers for transformers' `LlamaForCausalLM`."""
