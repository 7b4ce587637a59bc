"""Lets a model's memory layers attend across the batch while it trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any, Self

import torch
from torch import Tensor, nn

from fotmem.adapter import Adapter
from fotmem.arguments import (
    checked_decay,
    checked_distance,
    checked_integer,
    checked_number,
    checked_temperature,
)
from fotmem.crossbatch.attention import crossbatch_attention
from fotmem.crossbatch.bank import Bank
from fotmem.crossbatch.earlier import EarlierWindows
from fotmem.crossbatch.pattern import AttentionPattern, documents
from fotmem.errors import OptionError, ShapeError
from fotmem.interrupts import interrupts_deferred
from fotmem.models.memory_layers import layer_adapters, memory_layers
from fotmem.models.model_parts import model_parts
from fotmem.models.replace_forward import own_forward, replace_forward
from fotmem.models.unsupported import refuse_changing_rope


class Crossbatch:
    """A model in crossbatch training, as in the Focused Transformer paper (arXiv:2307.03170).

    The model then takes ``2 * B`` windows: the previous windows of ``B`` documents, then their
    current ones. Previous windows attend only to themselves. In memory layers, current windows also
    attend to the previous windows of `d` documents, their own first, to the earlier windows of
    their own document, and to the bank, in all of them without the first token: it is an attention
    sink (Xiao et al. 2023, arXiv:2309.17453), and a memory that was read with an overlap has none.
    With ``d=1`` and an empty bank, the output for a current window is that of an attached memory
    that holds the windows before it, and the output for a previous window is that of the model
    alone.

    As a context manager it gives the model its own forward functions back at the end of the block.

    Parameters
    ----------
    model : transformers.PreTrainedModel or peft.PeftModel
        A model that an adapter knows, without memory.
    layers : iterable of int, optional
        Memory layers. Default: as `fotmem.attach` chooses them.
    bank_windows : int
        How many earlier previous windows are kept as further negatives; see `commit`.
    bank_weight : float
        Factor of the weight of each key of the bank. A memory in use is larger than any bank: 8,192
        keys with a weight of 8 take as much attention as 65,536.
    distance : int, optional
        How many positions before a current window the previous ones stand, as in `fotmem.attach`.
    decay : float
        How fast older keys lose weight, as in `fotmem.attach`; see `ages`.
    temperature : float
        Divisor of the scores of other windows' keys, as in `fotmem.attach`.

    Attributes
    ----------
    d : int
        How many previous windows a current window attends to: 1 is its own (the positive), more are
        those of other documents (negatives); 0: none. Can be set at any time.
    bank_windows : int
        How many of the latest windows of the bank a current window attends to. Can be set, too.
    ages : Tensor or None
        Shape ``[B]``: the age of each document's previous window, in windows. Default: 1.
    below : list of Module
        The attention modules below the first memory layer.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Iterable[int] | None = None,
        *,
        bank_windows: int = 0,
        bank_weight: float = 1.0,
        distance: int | None = None,
        decay: float = 0.0,
        temperature: float = 1.0,
    ) -> None:
        bank_windows = checked_integer("bank_windows", bank_windows)
        if bank_windows < 0:
            raise OptionError(f"bank_windows must be at least 0, got {bank_windows}")
        parts = model_parts(model)
        config: Any = parts.decoder.config
        if distance is None:
            distance = getattr(config, "mem_distance", 0)
        self.decoder: nn.Module = parts.decoder
        self.layers: tuple[int, ...] = tuple(memory_layers(parts, layers))
        self.adapters: dict[int, Adapter] = layer_adapters(parts, self.layers)
        self.below: list[nn.Module] = parts.attentions[: self.layers[0]]
        self.bank = Bank(self.layers, bank_windows)
        self.d = 1
        self.bank_windows = bank_windows
        self.bank_weight = checked_number("bank_weight", bank_weight, kind="above 0", above=0)
        self.distance = checked_distance(distance, 2, config.max_position_embeddings)
        self.decay = checked_decay(decay)
        self.temperature = checked_temperature(temperature)
        self.ages: Tensor | None = None
        self._positionals = bool(getattr(config, "mem_positionals", True))
        self._padding_mask: Tensor | None = None  # of the call in progress, [2 * B, T]
        self._fresh: dict[int, Tensor] = {}  # inputs of memory layers, previous windows only
        self._earlier = EarlierWindows(self.layers)
        self._undo = ExitStack()
        try:
            with interrupts_deferred():
                for layer in self.layers:
                    attention = parts.attentions[layer]
                    function = self._attention_call(layer)
                    self._undo.callback(replace_forward(attention, self, function))
                self._undo.callback(replace_forward(self.decoder, self, self._decoder_call()))
        except BaseException:  # Ctrl-C, too: nobody would have this to detach it
            self.detach()
            raise

    def commit(self) -> None:
        """Put the previous windows of the last call into the bank, without their first tokens.

        Call it once per step, after backward: gradient checkpointing computes a call twice.
        """
        for layer, windows in self._fresh.items():
            for row, window in enumerate(windows):
                kept = slice(None) if self._padding_mask is None else self._padding_mask[row]
                self.bank.add(layer, window[kept][1:])
        self._fresh = {}

    def read_earlier(self, windows: Sequence[Tensor]) -> None:
        """Read the windows before each document's previous one, for the next calls.

        They are read without gradients. As with the bank, keys and values are computed from the
        inputs of the memory layers by the current weights, with gradients for these weights.

        Parameters
        ----------
        windows : sequence of Tensor
            For each document int64 ``[P, T]``, oldest first, `T` as long as the other windows. `P`
            may be 0, and another one for each document. An empty sequence: none.

        Raises
        ------
        ShapeError
            By the next call, if its windows are not of as many documents, or not as long.
        """
        with self._earlier.reading(windows) as input_ids, torch.no_grad():
            if len(input_ids):
                self.decoder(input_ids, use_cache=False)

    def detach(self) -> None:
        """Give the model its own forward functions back. Detaching twice is fine."""
        with interrupts_deferred():
            self._undo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.detach()

    def _decoder_call(self) -> Callable[..., Any]:
        plain_forward = own_forward(self.decoder)

        def forward(module: nn.Module, input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
            if self._earlier.in_reading:
                return plain_forward(module, input_ids, *args, **kwargs)
            if input_ids.ndim != 2 or len(input_ids) % 2:
                raise ShapeError(
                    "input_ids",
                    expected="[2 * B, T]: B previous windows, then their current ones",
                    actual=input_ids.shape,
                )
            self._earlier.check(len(input_ids) // 2, input_ids.shape[1])
            config: Any = self.decoder.config
            refuse_changing_rope(config, input_ids.shape[1] + self.distance)
            mask = kwargs.get("attention_mask")
            self._padding_mask = None if mask is None or bool(mask.all()) else mask.bool()
            positions = torch.arange(input_ids.shape[1], device=input_ids.device) + self.distance
            own = {"position_ids": positions[None], "use_cache": False}
            return plain_forward(module, input_ids, *args, **kwargs | own)

        return forward

    def _attention_call(self, layer: int) -> Callable[..., Any]:
        adapter = self.adapters[layer]

        def forward(
            module: nn.Module,
            hidden_states: Tensor,
            position_embeddings: Any = None,
            attention_mask: Tensor | None = None,
            cache: object = None,
            past_key_values: object = None,
            **kwargs: Any,
        ) -> tuple[Tensor, None]:
            if self._earlier.in_reading:
                self._earlier.keep(layer, hidden_states)
            query, key, value = adapter.project(module, hidden_states)
            remembered = self._remembered(adapter, key)
            if self._positionals:
                query, key = adapter.rotate(query, key, position_embeddings)
            if self._earlier.in_reading:
                local = adapter.attend(module, query, key, value, attention_mask, **kwargs)
                return adapter.project_out(module, local), None
            half = len(hidden_states) // 2
            previous, current = slice(None, half), slice(half, None)
            mask = None if attention_mask is None else attention_mask[previous]
            local = adapter.attend(
                module, query[previous], key[previous], value[previous], mask, **kwargs
            )
            self._fresh[layer] = hidden_states[previous].detach()
            output = crossbatch_attention(
                query[current],
                key[current],
                value[current],
                *self._contexts(layer, module, remembered[previous], value[previous]),
                self._pattern(adapter.geometry(module)[2], half, attention_mask, query.device),
                self._negatives(layer, module),
            )
            output = output.transpose(1, 2).flatten(2)
            return adapter.project_out(module, torch.cat([local, output])), None

        return forward

    def _contexts(
        self, layer: int, attention: nn.Module, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return keys and values ``[W, H, T - 1, D]`` of the previous and of earlier windows."""
        earlier = self._earlier.hidden_states.get(layer)
        if earlier is not None:
            more_keys, more_values = self._computed(layer, attention, earlier)
            keys, values = torch.cat([keys, more_keys]), torch.cat([values, more_values])
        return keys[:, :, 1:], values[:, :, 1:]

    def _negatives(self, layer: int, attention: nn.Module) -> tuple[Tensor, Tensor] | None:
        """Make keys and values ``[H, N, D]`` of the bank's windows."""
        hidden_states = self.bank.hidden_states(layer, self.bank_windows)
        if hidden_states is None:
            return None
        keys, values = self._computed(layer, attention, hidden_states[None])
        return keys[0], values[0]

    def _computed(
        self, layer: int, attention: nn.Module, hidden_states: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute keys and values ``[W, H, T, D]`` from kept inputs, by the current weights."""
        adapter = self.adapters[layer]
        _, key, value = adapter.project(attention, hidden_states)
        return self._remembered(adapter, key), value

    def _remembered(self, adapter: Adapter, key: Tensor) -> Tensor:
        """Return keys as other windows see them, their scores divided by the temperature."""
        if self._positionals:
            key = adapter.at_first_position(key, self.decoder)
        return key / self.temperature

    def _pattern(
        self, scale: float, rows: int, attention_mask: Tensor | None, device: torch.device
    ) -> AttentionPattern:
        mask = self._padding_mask
        ages = torch.ones(rows, device=device) if self.ages is None else self.ages
        return AttentionPattern(
            contexts=self._earlier.added_to(documents(rows, self.d)),
            scale=scale,
            padding_mask=None if mask is None else mask[rows:],
            window_mask=None if attention_mask is None else _shown(attention_mask[rows:]),
            context_padding_mask=None if mask is None else self._earlier.without_first(mask[:rows]),
            context_weights=self._earlier.ages(ages) ** -self.decay,
            bank_weight=self.bank_weight,
        )


def _shown(mask: Tensor) -> Tensor:
    """Return what a decoder's mask shows, whether it is boolean or added to the scores."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
