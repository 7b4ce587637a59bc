"""Checks what a caller passes to an attached model."""

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from fotmem.errors import InputError, ShapeError, UnsupportedError

ATTENTION_IMPLEMENTATIONS = ("sdpa", "eager")


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
    if attention_mask is not None and (
        not isinstance(attention_mask, Tensor) or attention_mask.ndim != 2
    ):
        kind = f"{attention_mask.ndim}D" if isinstance(attention_mask, Tensor) else "block"
        raise UnsupportedError(
            f"a {kind} attention mask", "pass attention_mask of shape [B, tokens]"
        )


def refuse_tracing(inputs: object) -> None:
    """Refuse what would write down one call for ever, memory included, or has no numbers to go by.

    Calls differ: by what is in memory, and by how long the input is.
    """
    if torch.jit.is_tracing():
        feature = "torch.jit.trace (or torch.onnx.export)"
    elif torch.compiler.is_exporting() or isinstance(inputs, FakeTensor):
        feature = "torch.export"
    elif isinstance(inputs, torch.fx.Proxy) or get_proxy_mode() is not None:
        feature = "torch.fx"
    elif isinstance(inputs, Tensor) and torch._C._functorch.is_batchedtensor(inputs):
        feature = "torch.func.vmap"
    else:
        return
    raise UnsupportedError(feature, "call memory.detach() first, which leaves the plain model")


def real_columns(inputs: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Tell tokens from padding: bool ``[B, n]`` on CPU for input ids ``[B, n]`` or embeddings.

    A mask may also cover what the cache has seen before; its last ``n`` columns count.
    """
    if inputs.ndim < 2:
        raise ShapeError("input_ids", expected="[B, tokens]", actual=inputs.shape)
    rows, columns = inputs.shape[:2]
    if attention_mask is None:
        return torch.ones(rows, columns, dtype=torch.bool)
    if attention_mask.shape[0] != rows or attention_mask.shape[1] < columns:
        raise ShapeError(
            "attention_mask",
            expected=f"[B={rows}, at least {columns}]",
            actual=attention_mask.shape,
        )
    return attention_mask[:, -columns:].bool().cpu()


def past_columns(attention_mask: Tensor | None, seen: int, columns: int) -> Tensor | None:
    """Tell what a mask says about the `seen` columns before these: bool ``[B, seen]`` on CPU.

    None if it says nothing, or nothing but that all of them count.
    """
    if attention_mask is None or attention_mask.shape[1] != seen + columns:
        return None
    past = attention_mask[:, :seen].bool().cpu()
    return None if bool(past.all()) else past


def check_positions(position_ids: Tensor | None, real: Tensor) -> None:
    """Refuse positions that do not count tokens one by one (packed sequences).

    Positions themselves are computed from the local context of each row.
    """
    if position_ids is None or real.shape[1] == 1:
        return
    positions = position_ids[..., -real.shape[1] :].cpu().expand(real.shape)
    for row, kept in zip(positions, real, strict=True):
        steps = row[kept].diff()
        if not bool((steps == 1).all()):
            raise UnsupportedError(
                "position_ids that are not consecutive (packed sequences)",
                "pass one sequence per row, with attention_mask for padding",
            )


def checked_tokens(input_ids: Any, vocab_size: int) -> Tensor:
    """Turn token ids of one text into int64 ``[n]`` on CPU.

    Raises
    ------
    ShapeError, InputError
        Not ``[n]`` or ``[1, n]``, not integers, or ids beyond the vocabulary.
    """
    try:
        tokens = torch.as_tensor(input_ids)
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"input_ids must be the token ids of one text, as in tokenizer(text).input_ids, "
            f"got {type(input_ids).__name__} ({error})"
        ) from error
    if tokens.ndim == 2 and tokens.shape[0] == 1:
        tokens = tokens[0]
    if tokens.ndim != 1:
        raise ShapeError("input_ids", expected="[n] or [1, n] (one text)", actual=tokens.shape)
    if tokens.numel() and (
        tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool
    ):
        raise InputError(
            f"input_ids must be integers, got {tokens.dtype}: pass token ids, not embeddings"
        )
    tokens = tokens.long().cpu()
    outside = tokens[(tokens < 0) | (tokens >= vocab_size)]
    if outside.numel():
        raise InputError(
            f"input_ids must be from 0 to {vocab_size - 1}, got {int(outside[0])}: "
            f"were they made by this model's tokenizer?"
        )
    return tokens
