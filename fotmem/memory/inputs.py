"""Checks the inputs of an attached model."""

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from fotmem.errors import InputError, ShapeError, UnsupportedError


def refuse_tracing(inputs: object) -> None:
    """Refuse tracing, which would freeze one call, its memory included.

    Calls differ by what is in memory and by the length of the input.
    """
    if torch._C._get_tracing_state() is not None:
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


def real_columns(inputs: Tensor, attention_mask: Tensor | None, seen: int) -> Tensor:
    """Return which columns are tokens, not padding: bool ``[B, n]`` on CPU, for ids or embeddings.

    A mask may also cover the `seen` columns before; its last ``n`` columns count.
    """
    if not isinstance(inputs, Tensor):
        raise InputError(
            f"input_ids must be a tensor of shape [B, tokens], got {type(inputs).__name__}; "
            "torch.tensor(...) makes one"
        )
    if inputs.ndim < 2:
        raise ShapeError("input_ids", expected="[B, tokens]", actual=inputs.shape)
    if 0 in inputs.shape:
        expected = "[B, tokens] (at least one row and one token)"
        raise ShapeError("the input", expected=expected, actual=inputs.shape)
    rows, columns = inputs.shape[:2]
    if attention_mask is None:
        return torch.ones(rows, columns, dtype=torch.bool)
    if attention_mask.shape not in ((rows, columns), (rows, seen + columns)):
        short = attention_mask.shape[0] != rows or attention_mask.shape[1] < columns
        expected = f"[B={rows}, {'at least ' * short}{columns}]"
        if seen:
            expected += f" (the input), or [B={rows}, {seen + columns}] (with what was before)"
        raise ShapeError("attention_mask", expected=expected, actual=attention_mask.shape)
    mask = attention_mask[:, -columns:].cpu()
    if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
        raise InputError(
            f"attention_mask must be 1 (or True) for tokens and 0 for padding, got a mask of "
            f"{mask.dtype} with other values; a mask to be added to scores is not supported"
        )
    return mask.bool()


def past_columns(attention_mask: Tensor | None, seen: int, columns: int) -> Tensor | None:
    """Return what a mask says about the `seen` columns before these: bool ``[B, seen]`` on CPU.

    None if it does not cover them, or calls all of them tokens.
    """
    if attention_mask is None or attention_mask.shape[1] != seen + columns:
        return None
    past = attention_mask[:, :seen].bool().cpu()
    return None if bool(past.all()) else past


def check_positions(position_ids: Tensor | None, real: Tensor) -> None:
    """Refuse positions that do not count the tokens of a row one by one, without padding.

    The positions that the decoder uses are computed from the local context of each row.
    """
    if position_ids is None:
        if real.shape[1] > 2 and bool((real.int().diff() == 1).sum(1).gt(~real[:, 0]).any()):
            raise UnsupportedError(
                "an attention_mask with a hole (0 between tokens of a row) without position_ids",
                "pass position_ids that leave the hole out, attention_mask.cumsum(-1) - 1, "
                "or put padding before or behind the tokens of a row",
            )
        return
    rows, columns = real.shape
    if not isinstance(position_ids, Tensor):
        raise InputError(f"position_ids must be a tensor, got {type(position_ids).__name__}")
    fits = position_ids.ndim == 2 and position_ids.shape[0] in (1, rows)
    if not fits or position_ids.shape[1] < columns:
        expected = f"[1 or B={rows}, {columns}]"
        raise ShapeError("position_ids", expected=expected, actual=position_ids.shape)
    if columns == 1:
        return
    positions = position_ids[:, -columns:].cpu().expand(real.shape)
    # Where a row is padded on the right, generate() itself counts on from the 0 of the padding.
    restarts = torch.zeros_like(real)
    restarts[:, 1:] = ~real[:, :-1] & (positions[:, :-1] == 0) & (positions[:, 1:] == 1)
    for row, kept, restart in zip(positions, real, restarts, strict=True):
        if not bool(((row[kept].diff() == 1) | restart[kept][1:]).all()):
            raise UnsupportedError(
                "position_ids that are not consecutive (packed sequences)",
                "pass one sequence per row, with attention_mask for padding",
            )


def checked_tokens(input_ids: Any, vocab_size: int) -> Tensor:
    """Return the token ids of one text as int64 ``[n]`` on CPU.

    Raises
    ------
    ShapeError, InputError
        They are not ``[n]`` or ``[1, n]``, no integers, or beyond the vocabulary.
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
