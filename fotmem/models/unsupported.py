"""Refuses models, and ways to call them, that cannot work with memory."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from fotmem.errors import UnsupportedError

ATTENTION_IMPLEMENTATIONS = ("sdpa", "eager")
"""Those of transformers that work with memory."""
SOFT_CAPS = ("attn_logit_softcapping", "softcap", "logit_softcap")
"""Attributes of attention modules that hold the cap of their scores."""


def refuse_unsupported(config: Any, attention_mask: object, kwargs: dict[str, Any]) -> None:
    """Refuse by name what cannot work with memory."""
    implementation = config._attn_implementation
    if implementation not in ATTENTION_IMPLEMENTATIONS:
        raise UnsupportedError(
            f"attention implementation {implementation!r}",
            'call model.set_attn_implementation("sdpa")',
        )
    if kwargs.get("output_attentions", getattr(config, "output_attentions", False)):
        raise UnsupportedError("output_attentions", "memory.explain() shows where attention went")
    if isinstance(attention_mask, Tensor):
        kind = "" if attention_mask.ndim == 2 else f"a {attention_mask.ndim}D attention mask"
    else:
        block = isinstance(attention_mask, (dict, BlockMask))
        kind = "a block attention mask" if block else f"{type(attention_mask).__name__} as a mask"
    if attention_mask is not None and kind:
        raise UnsupportedError(kind, "pass attention_mask as a tensor of shape [B, tokens]")


def refuse_empty(model: nn.Module) -> None:
    """Refuse a model without weights, unless accelerate fetches them from elsewhere."""
    for name, module in model.named_modules():
        waiting = any(weight.is_meta for weight in module.parameters(recurse=False))
        if waiting and not hasattr(module, "_hf_hook"):
            raise UnsupportedError(
                f"a model without weights ({name} is on the meta device)",
                "load its weights first, such as by from_pretrained or to_empty",
            )


def refuse_changing_rope(config: Any, positions: int) -> None:
    """Refuse RoPE that changes with the length of the input, or with the position of a query.

    What was remembered at one length would be searched with queries of another.

    Parameters
    ----------
    config : transformers.PreTrainedConfig
    positions : int
        How many positions there are: those of a window, and up to the distance of memory.

    Raises
    ------
    UnsupportedError
        It changes within these positions.
    """
    parameters = getattr(config, "rope_parameters", None) or {}
    by_type = {kind: each for kind, each in parameters.items() if isinstance(each, dict)}
    for layers, each in (by_type or {"": parameters}).items():
        kind, where = each.get("rope_type"), f" in layers of type {layers!r}" if layers else ""
        longest = each.get("original_max_position_embeddings", config.max_position_embeddings)
        if kind == "dynamic":
            raise UnsupportedError(
                f"RoPE of type 'dynamic'{where}",
                "before the model is loaded, set rope_type to 'default' in config.rope_parameters: "
                "up to max_position_embeddings it is the same, and windows are never longer",
            )
        changing = "RoPE of type 'longrope'" if kind == "longrope" else ""
        if each.get("llama_4_scaling_beta"):
            changing = "queries that are scaled by their position"
        if changing and positions > longest:
            raise UnsupportedError(
                f"{changing}{where} beyond {longest} positions",
                f"choose a window of at most {longest}, and a distance below it",
            )


def unsupported_attention(attention: nn.Module) -> str:
    """Return the part of an attention module that is not a plain softmax, or an empty string."""
    if type(attention).__module__.startswith("peft."):
        return f"{type(attention).__name__}, PEFT's own attention,"
    for name in SOFT_CAPS:
        if isinstance(getattr(attention, name, None), float):
            return "attention with soft-capped scores"
    if getattr(attention, "sinks", None) is not None:
        return "attention with sinks"
    return ""
