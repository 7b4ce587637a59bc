"""A naive float64 oracle of Focused-Transformer LLaMA, independent of fotmem.

Slow and obvious on purpose: one row without padding, one softmax per query and head, local keys
rotated anew for every chunk. From a Hugging Face model it copies the weights, a few numbers of the
config, and the inverse frequencies and attention factor of its RoPE (so that Llama-3 and YaRN
scaling come along), nothing else. Build the oracle before attaching anything to the model.

The rules are those of the paper (arXiv:2307.03170) and of the released LongLLaMA code
(``_handle_long_input`` and ``LongLlamaAttention``, https://github.com/CStanKonrad/long_llama),
widened by grouped queries, top-k, RoPE scaling and a memory that outlives the sequence.

Where two keys (top-k) or two logits (greedy) are equal up to float32 rounding, float32 code may
rightly take the other one: compare on data without near ties.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import LlamaForCausalLM


class KeyValues(NamedTuple):
    """Unrotated keys and the values of one layer, oldest first, float64."""

    keys: Tensor  # [H, N, D]
    values: Tensor  # [H, N, D]


def _join(old: KeyValues, new: KeyValues) -> KeyValues:
    return KeyValues(torch.cat([old.keys, new.keys], 1), torch.cat([old.values, new.values], 1))


def _as_ids(ids: Tensor | Sequence[int]) -> Tensor:
    """Make token ids ``[n]`` or ``[1, n]`` int64 ``[n]``."""
    tensor = torch.as_tensor(ids, dtype=torch.long).cpu()
    assert tensor.ndim == 1 or (tensor.ndim == 2 and len(tensor) == 1), tensor.shape
    return tensor.reshape(-1)


def _cut(ids: Tensor, size: int) -> list[Tensor]:
    """Cut ids into pieces of `size`, the last one possibly shorter."""
    return [ids[begin : begin + size] for begin in range(0, len(ids), size)]


class Oracle:
    """Focused-Transformer LLaMA for one unpadded row.

    Parameters
    ----------
    model : any dtype and device; not RoPE types whose frequencies depend on the length
    mem_layers : indices of the memory layers
    window : ``T``, tokens of a window; before a chunk would make the local context longer than
        this, the whole old local context moves to the overflow
    last_context_length : ``L``, how many tokens of a split call stay local; default ``T // 2``
    split_above : ``S``, calls with more new tokens than this are split; default ``T``
    top_k : how many keys a query head sees of the memory, and as many of the overflow; None: all
    mem_dtype : what keys and values are rounded to when they are stored; None: not rounded
    mem_positionals : if False, memory layers use no RoPE and no attention factor at all
    distance : memory and overflow are asked from this position, wherever a token stands; 0: from
        the token's own
    recent : how many of the last tokens of memory and overflow are seen as local ones, at their
        positions
    decay : a key of `n` windows ago counts for ``n ** -decay``, from 8 on for ``(n * n / 8) **
        -decay``; or by layer
    temperature : what scores of memory and overflow are divided by

    Attributes
    ----------
    memory, overflow : dict from memory layer to what it holds, of all that was read and of this
        sequence. Keys are not rotated but INCLUDE the attention factor: RoPE at position 0.
    local : the local cache of every layer, its keys neither rotated nor scaled
    attention_outputs : of the last `forward`, per layer ``[n, hidden]``, after ``o_proj`` and
        before the residual
    hidden_states : of the last `forward`, ``[n, hidden]`` each, as Hugging Face has them: the
        embeddings, then the output of every layer, the last one normalised
    """

    def __init__(
        self,
        model: LlamaForCausalLM,
        mem_layers: Sequence[int],
        *,
        window: int,
        last_context_length: int | None = None,
        split_above: int | None = None,
        top_k: int | None = None,
        mem_dtype: torch.dtype | None = None,
        mem_positionals: bool = True,
        distance: int = 0,
        recent: int = 0,
        decay: float | dict[int, float] = 0.0,
        temperature: float = 1.0,
    ) -> None:
        config, rotary = model.config, model.model.rotary_emb
        assert config.hidden_act == "silu", config.hidden_act
        assert rotary.rope_type not in ("dynamic", "longrope"), rotary.rope_type
        self.weights: dict[str, Tensor] = {
            name: tensor.detach().to("cpu", torch.float64, copy=True)
            for name, tensor in model.state_dict().items()
        }
        self.inv_freq = rotary.inv_freq.detach().to("cpu", torch.float64, copy=True)  # [D / 2]
        self.attention_factor = float(rotary.attention_scaling)
        self.num_layers = int(config.num_hidden_layers)
        self.num_heads = int(config.num_attention_heads)
        self.num_kv_heads = int(config.num_key_value_heads or config.num_attention_heads)
        self.head_dim = int(config.head_dim or config.hidden_size // config.num_attention_heads)
        self.norm_eps = float(config.rms_norm_eps)
        self.mem_layers, self.window = list(mem_layers), window
        if last_context_length is None:
            last_context_length = window // 2
        self.last_context_length = last_context_length
        self.split_above = window if split_above is None else split_above
        self.top_k, self.mem_dtype, self.mem_positionals = top_k, mem_dtype, mem_positionals
        self.distance, self.decay, self.temperature = distance, decay, temperature
        self.recent = recent if mem_positionals else 0
        self.memory = {layer: self._nothing() for layer in self.mem_layers}
        self.attention_outputs: list[Tensor] = []
        self.hidden_states: list[Tensor] = []
        self.new_sequence()

    def _nothing(self) -> KeyValues:
        empty = torch.zeros(self.num_kv_heads, 0, self.head_dim, dtype=torch.float64)
        return KeyValues(empty, empty)

    def _linear(self, inputs: Tensor, name: str) -> Tensor:
        outputs = inputs @ self.weights[f"{name}.weight"].T
        bias = self.weights.get(f"{name}.bias")
        return outputs if bias is None else outputs + bias

    def _norm(self, inputs: Tensor, name: str) -> Tensor:
        mean_square = (inputs * inputs).mean(dim=-1, keepdim=True)
        return self.weights[f"{name}.weight"] * inputs / torch.sqrt(mean_square + self.norm_eps)

    def _heads(self, inputs: Tensor, name: str) -> Tensor:
        """Project ``[n, hidden]`` and split into heads: ``[heads, n, D]``."""
        return self._linear(inputs, name).reshape(len(inputs), -1, self.head_dim).transpose(0, 1)

    def _rotate(self, vectors: Tensor, layer: int, first_position: int) -> Tensor:
        """RoPE in the half-split layout: turn the pairs ``(x[i], x[i + D/2])``."""
        if layer in self.mem_layers and not self.mem_positionals:
            return vectors
        positions = first_position + torch.arange(vectors.shape[1], dtype=torch.float64)
        angles = positions[:, None] * self.inv_freq[None, :]  # [n, D / 2]
        cos, sin = torch.cos(angles), torch.sin(angles)
        first, second = vectors[..., : self.head_dim // 2], vectors[..., self.head_dim // 2 :]
        turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
        return turned * self.attention_factor

    def _asking(self, queries: Tensor, layer: int, past: int) -> Tensor:
        """Rotate ``[heads, n, D]`` for memory and overflow."""
        if not self.distance:
            return self._rotate(queries, layer, past)
        one = [self._rotate(query[:, None], layer, self.distance) for query in queries.unbind(1)]
        return torch.cat(one, 1)

    def _to_store(self, local: KeyValues) -> KeyValues:
        """Turn local keys and values into what a store holds: as if at position 0, rounded."""
        factor = self.attention_factor if self.mem_positionals else 1.0
        dtype = self.mem_dtype or torch.float64
        keys, values = (local.keys * factor).to(dtype), local.values.to(dtype)
        return KeyValues(keys.to(torch.float64), values.to(torch.float64))

    def seen(
        self, query: Tensor, store: KeyValues, kv_head: int, layer: int, near: int = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pick the keys of a store that one query ``[D]`` sees: ids, scores ``[K]``, values.

        The last `near` ones are not among them.
        """
        total = store.keys.shape[1]
        keys, values = store.keys[kv_head, : total - near], store.values[kv_head, : total - near]
        products = keys @ query / self.head_dim**0.5 / self.temperature
        windows_ago = [(total - place) / self.window for place in range(len(keys))]
        decay = self.decay.get(layer, 0.0) if isinstance(self.decay, dict) else self.decay
        weights = [(ago * ago / 8 if ago > 8 else max(1.0, ago)) ** -decay for ago in windows_ago]
        scores = products + torch.tensor(weights, dtype=torch.float64).log()
        best = torch.argsort(scores, descending=True)[: self.top_k]
        return best, scores[best], values[best]

    def _attend(
        self, queries: Tensor, local: KeyValues, layer: int, stores: Sequence[KeyValues]
    ) -> Tensor:
        """Attention ``[n, heads * D]`` of the last ``n`` tokens, unrotated ``[heads, n, D]``."""
        past = local.keys.shape[1] - queries.shape[1]
        asking = self._asking(queries, layer, past)
        queries = self._rotate(queries, layer, past)
        local_keys, local_values = self._rotate(local.keys, layer, 0), local.values
        near = self.near(stores)
        before = 0  # tokens between a store and the window
        for store, count in zip(stores, near, strict=True):
            near_keys, near_values = self._near(store, count, layer, before)
            local_keys = torch.cat([near_keys, local_keys], 1)
            local_values = torch.cat([near_values, local_values], 1)
            before += store.keys.shape[1]
        outputs = torch.zeros_like(queries)
        for head in range(self.num_heads):
            kv_head = head // (self.num_heads // self.num_kv_heads)
            for token in range(queries.shape[1]):
                query = queries[head, token]
                causal = sum(near) + past + token + 1
                scores = [local_keys[kv_head, :causal] @ query / self.head_dim**0.5]
                values = [local_values[kv_head, :causal]]
                for store, count in zip(stores, near, strict=True):
                    _, found, theirs = self.seen(asking[head, token], store, kv_head, layer, count)
                    scores.append(found)
                    values.append(theirs)
                weights = torch.softmax(torch.cat(scores), dim=0)
                outputs[head, token] = weights @ torch.cat(values)
        return outputs.transpose(0, 1).flatten(1)

    def near(self, stores: Sequence[KeyValues]) -> list[int]:
        """Count the tokens of each store, the nearest store first, that are seen as local ones."""
        left, counts = self.recent, []
        for store in stores:
            counts.append(min(left, store.keys.shape[1]))
            left = max(0, left - store.keys.shape[1])
        return counts

    def _near(self, store: KeyValues, count: int, layer: int, before: int) -> KeyValues:
        """Rotate the last `count` keys of a store; `before` tokens stand between it and a window.

        Returns them with their values.
        """
        start = store.keys.shape[1] - count
        plain = store.keys[:, start:] / self.attention_factor
        return KeyValues(self._rotate(plain, layer, -before - count), store.values[:, start:])

    def _chunk(
        self, ids: Tensor, local: list[KeyValues], stores: dict[int, list[KeyValues]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Run one chunk, append it to `local`; attention outputs and hidden states by layer."""
        hidden = self.weights["model.embed_tokens.weight"][ids]
        attention_outputs, hidden_states = [], [hidden]
        for layer in range(self.num_layers):
            name = f"model.layers.{layer}"
            normed = self._norm(hidden, f"{name}.input_layernorm")
            queries = self._heads(normed, f"{name}.self_attn.q_proj")
            keys = self._heads(normed, f"{name}.self_attn.k_proj")
            values = self._heads(normed, f"{name}.self_attn.v_proj")
            local[layer] = _join(local[layer], KeyValues(keys, values))
            attended = self._attend(queries, local[layer], layer, stores.get(layer, []))
            attended = self._linear(attended, f"{name}.self_attn.o_proj")
            attention_outputs.append(attended)
            hidden = hidden + attended
            normed = self._norm(hidden, f"{name}.post_attention_layernorm")
            gate = self._linear(normed, f"{name}.mlp.gate_proj")
            up = self._linear(normed, f"{name}.mlp.up_proj")
            hidden = hidden + self._linear(gate * torch.sigmoid(gate) * up, f"{name}.mlp.down_proj")
            hidden_states.append(hidden)
        hidden_states[-1] = self._norm(hidden, "model.norm")
        return attention_outputs, hidden_states

    def new_sequence(self) -> None:
        """Forget local context and overflow; keep the memory."""
        self.local = [self._nothing() for _ in range(self.num_layers)]
        self.overflow = {layer: self._nothing() for layer in self.mem_layers}

    def read(self, ids: Tensor | Sequence[int], attend: bool = False) -> None:
        """Append tokens to the memory, window by window; the current sequence is not touched."""
        for window in _cut(_as_ids(ids), self.window):
            local = [self._nothing() for _ in range(self.num_layers)]
            stores = {layer: [self.memory[layer]] for layer in self.mem_layers} if attend else {}
            self._chunk(window, local, stores)
            for layer in self.mem_layers:
                self.memory[layer] = _join(self.memory[layer], self._to_store(local[layer]))

    def _move_local_to_overflow(self) -> None:
        """Move the whole local cache of memory layers to the overflow; other layers drop it."""
        for layer in self.mem_layers:
            self.overflow[layer] = _join(self.overflow[layer], self._to_store(self.local[layer]))
        self.local = [self._nothing() for _ in range(self.num_layers)]

    def forward(self, ids: Tensor | Sequence[int]) -> Tensor:
        """Continue the sequence by ``n`` tokens in one call; their logits ``[n, vocabulary]``."""
        tokens = _as_ids(ids)
        split = len(tokens) > self.split_above
        windowed = max(len(tokens) - self.last_context_length, 0) if split else 0
        windows = _cut(tokens[:windowed], self.window)
        rest = [tokens[windowed:]] if windowed < len(tokens) else []
        began_empty = self.local[0].keys.shape[1] == 0
        results = []
        for index, chunk in enumerate(windows + rest):
            if self.local[0].keys.shape[1] + len(chunk) > self.window:
                self._move_local_to_overflow()
            stores = {layer: [self.overflow[layer], self.memory[layer]] for layer in self.memory}
            results.append(self._chunk(chunk, self.local, stores))
            if began_empty and index < len(windows):
                self._move_local_to_overflow()

        attention_outputs, hidden_states = zip(*results, strict=True)
        self.attention_outputs = [torch.cat(part) for part in zip(*attention_outputs, strict=True)]
        self.hidden_states = [torch.cat(part) for part in zip(*hidden_states, strict=True)]
        return self._linear(self.hidden_states[-1], "lm_head")

    def greedy(self, ids: Tensor | Sequence[int], steps: int) -> Tensor:
        """Begin a new sequence with `ids` and add exactly `steps` tokens; all of them ``[n]``."""
        self.new_sequence()
        tokens = new = _as_ids(ids)
        for _ in range(steps):
            new = self.forward(new)[-1].argmax().reshape(1)
            tokens = torch.cat([tokens, new])
        return tokens

    def shares(self) -> Iterator[tuple[int, dict[int, float]]]:
        """Yield for each memory layer and head what share of its attention the last token gave.

        After `forward`: a softmax over all keys; positions are those in memory.
        """
        for layer in self.mem_layers:
            name, local = f"model.layers.{layer}", self.local[layer]
            hidden = self._norm(self.hidden_states[layer][-1:], f"{name}.input_layernorm")
            queries = self._heads(hidden, f"{name}.self_attn.q_proj")
            queries = self._rotate(queries, layer, local.keys.shape[1] - 1)[:, 0]
            local_keys = self._rotate(local.keys, layer, 0)
            overflow, memory = self.overflow[layer], self.memory[layer]
            counts, total = self.near([overflow, memory]), memory.keys.shape[1]
            moved, _ = self._near(overflow, counts[0], layer, 0)
            recent, _ = self._near(memory, counts[1], layer, overflow.keys.shape[1])
            near_keys = torch.cat([recent, moved, local_keys], 1)
            for head, query in enumerate(queries):
                kv_head = head // (self.num_heads // self.num_kv_heads)
                far, remembered, _ = self.seen(query, memory, kv_head, layer, counts[1])
                _, overflown, _ = self.seen(query, overflow, kv_head, layer, counts[0])
                near = near_keys[kv_head] @ query / self.head_dim**0.5
                shares = torch.softmax(torch.cat([remembered, near, overflown]), 0)
                seen = [*far.tolist(), *range(total - counts[1], total)]
                yield layer, dict(zip(seen, shares[: len(seen)].tolist(), strict=True))
