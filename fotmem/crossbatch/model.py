"""Lets a model's memory layers attend across the batch while it trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

import torch
from torch import Tensor, nn

from fotmem.adapter import Adapter
from fotmem.aging import age_step, decay_of, log_weights
from fotmem.arguments import (
    checked_decay,
    checked_distance,
    checked_integer,
    checked_number,
    checked_temperature,
)
from fotmem.crossbatch.attention import crossbatch_attention
from fotmem.crossbatch.bank import Bank
from fotmem.crossbatch.layout import Layout
from fotmem.crossbatch.pattern import AttentionPattern
from fotmem.errors import ModelError, OptionError, ShapeError
from fotmem.interrupts import interrupts_deferred
from fotmem.models.head_temperatures import head_temperatures
from fotmem.models.memory_layers import layer_adapters, memory_layers
from fotmem.models.model_parts import model_parts
from fotmem.models.positions import rotated
from fotmem.models.replace_forward import own_forward, replace_forward
from fotmem.models.unsupported import refuse_changing_rope

TEMPERATURES = "log_temperatures"


class Crossbatch:
    """A model in crossbatch training, as in the Focused Transformer paper (arXiv:2307.03170).

    The model then takes consecutive windows of ``B`` documents, one document after another. The
    first window of each document attends only to itself. In memory layers, all others also attend
    to the windows before them in their own document (positives), to windows of ``d - 1`` other
    documents, and to the bank (negatives), in all of them without the first token: it is an
    attention sink (Xiao et al. 2023, arXiv:2309.17453), and a memory that was read with an overlap
    has none. With ``d=1`` and an empty bank, the output for a window is that of an attached memory
    that holds the windows before it. They are remembered as a memory reads them, without attention
    to other windows: from the first to the last memory layer, the model computes a window twice,
    as others see it and as it sees others.

    As a context manager it gives the model its own forward functions back at the end of the block.

    Parameters
    ----------
    model : transformers.PreTrainedModel or peft.PeftModel
        A model that an adapter knows, without memory.
    layers : iterable of int, optional
        Memory layers. Default: as `fotmem.attach` chooses them.
    bank_windows : int
        How many windows of earlier steps are kept as further negatives; see `commit`.
    bank_weight : float
        Factor of the weight of each key of the bank. A memory in use is larger than any bank: 8,192
        keys with a weight of 8 take as much attention as 65,536.
    distance : int, optional
        How many positions before each token the windows before it stand, as in `fotmem.attach`.
    recent : bool
        Whether the window directly before each window keeps its positions, as the `recent` tokens
        of `fotmem.attach` do.
    decay : float or mapping of int to float
        How fast older keys lose weight, as in `fotmem.attach`; see `ages`.
    temperature : float
        Divisor of the scores of other windows' keys, as in `fotmem.attach`. Each head of a memory
        layer begins with it, or with its own times it, where the config has some.

    Attributes
    ----------
    windows_per_document : sequence of int or None
        How many windows each document of the next call has, at least two. Default: two. Can be set
        at any time, as all that follow.
    d : int
        How many documents a window attends to: 1 is its own (the windows before it), more are other
        documents, of each all windows but the last; 0: none.
    negative_weight : float
        Factor of the weight of each key of other documents, as `bank_weight` is one of the bank's.
    bank_windows : int
        How many of the latest windows of the bank a window attends to.
    ages : Tensor or None
        Shape ``[B]``: how old the window before is for the last window of each document, in
        windows; the ones before it are older by 1, 2, ... Default: 1. With a decay, a window of
        more than 256 tokens counts as several.
    log_temperatures : Parameter
        float32 ``[L, H * G]``: the logarithm of each head's temperature, which can be trained.
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
        recent: bool = False,
        decay: float | Mapping[int, float] = 0.0,
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
        self.windows_per_document: Sequence[int] | None = None
        self.d = 1
        self.negative_weight = 1.0
        self.bank_windows = bank_windows
        self.bank_weight = checked_number("bank_weight", bank_weight, kind="above 0", above=0)
        self.distance = checked_distance(distance, config.max_position_embeddings)
        self.decay = checked_decay(decay)
        self.temperature = checked_temperature(temperature)
        self.log_temperatures = self._log_temperatures(self.temperature)
        self.ages: Tensor | None = None
        self._positionals = bool(getattr(config, "mem_positionals", True))
        self.recent = recent and self._positionals
        self._layout, self._window = Layout(2), 1  # of the call in progress
        self._padding_mask: Tensor | None = None  # of the call in progress, [W, T]
        self._fresh: dict[int, Tensor] = {}  # inputs of memory layers, windows seen by others only
        self._undo = ExitStack()
        try:
            with interrupts_deferred():
                for layer in self.layers:
                    attention = parts.attentions[layer]
                    function = self._attention_call(layer)
                    self._undo.callback(replace_forward(attention, self, function))
                for layer in range(self.layers[0], self.layers[-1] + 1):
                    block = _block(self.decoder, parts.attentions[layer])
                    function = self._block_call(block, layer)
                    self._undo.callback(replace_forward(block, self, function))
                self._undo.callback(replace_forward(self.decoder, self, self._decoder_call()))
        except BaseException:  # Ctrl-C, too: nobody would have this to detach it
            self.detach()
            raise

    def commit(self) -> None:
        """Put the windows of the last call into the bank, but the last one of each document.

        Call it once per step, after backward: gradient checkpointing computes a call twice.
        """
        for layer, windows in self._fresh.items():
            for row, window in zip(self._layout.seen, windows, strict=True):
                kept = slice(None) if self._padding_mask is None else self._padding_mask[row]
                self.bank.add(layer, window[kept][1:])
        self._fresh = {}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the temperatures and the bank, as tensors by name."""
        temperatures = {TEMPERATURES: self.log_temperatures.detach().clone()}
        return temperatures | self.bank.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state of another crossbatch of the same model and layers."""
        with torch.no_grad():
            self.log_temperatures.copy_(state[TEMPERATURES])
        self.bank.load_state_dict(state, self.log_temperatures.device)

    @property
    def temperatures(self) -> dict[int, list[float]]:
        """The temperature of each query head, by layer."""
        rows = self.log_temperatures.detach().exp().tolist()
        return dict(zip(self.layers, rows, strict=True))

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
            if input_ids.ndim != 2:
                raise ShapeError("input_ids", expected="[W, T]", actual=input_ids.shape)
            self._layout = Layout(len(input_ids), self.windows_per_document)
            self._window = input_ids.shape[1]
            config: Any = self.decoder.config
            refuse_changing_rope(config, max(input_ids.shape[1], self.distance + 1))
            mask = kwargs.get("attention_mask")
            self._padding_mask = None if mask is None or bool(mask.all()) else mask.bool()
            positions = torch.arange(input_ids.shape[1], device=input_ids.device)
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
            query, key, value = adapter.project(module, hidden_states)
            half = len(hidden_states) // 2  # as others see it, and as it sees others
            remembered, asked = self._remembered(adapter, key), query
            if self._positionals:
                query, asked, key = rotated(
                    adapter, self.decoder, query, key, position_embeddings, self.distance
                )
            mask = None if attention_mask is None else attention_mask[:half]
            local = adapter.attend(module, query[:half], key[:half], value[:half], mask, **kwargs)
            self._fresh[layer] = hidden_states[:half].detach()
            recent = None
            if self.recent:
                before = remembered[:half]
                recent = adapter.at_positions(before, self.decoder, self._positions(before))
            joint = crossbatch_attention(
                query[half:],
                key[half:],
                value[half:],
                remembered[:half, :, 1:],
                value[:half, :, 1:],
                self._pattern(layer, adapter.geometry(module)[2], attention_mask, query.device),
                self._negatives(layer, module),
                memory_query=self._sharpened(layer, asked[half:]),
                recent_keys=None if recent is None else recent[:, :, 1:],
            )
            joint = joint.transpose(1, 2).flatten(2)
            return adapter.project_out(module, torch.cat([local, joint])), None

        return forward

    def _block_call(self, block: nn.Module, layer: int) -> Callable[..., Any]:
        """Compute windows twice from the first memory layer on, and once after the last one."""
        plain_forward = own_forward(block)

        def forward(module: nn.Module, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            layout = self._layout
            mask = kwargs.get("attention_mask")
            if mask is not None and len(mask) > 1:
                kwargs["attention_mask"] = layout.doubled(mask)
            if layer == self.layers[0]:
                hidden_states = layout.doubled(hidden_states)
            output = plain_forward(module, hidden_states, *args, **kwargs)
            if layer < self.layers[-1]:
                return output
            if isinstance(output, tuple):
                return layout.single(output[0]), *output[1:]
            return layout.single(output)

        return forward

    def _negatives(self, layer: int, attention: nn.Module) -> tuple[Tensor, Tensor] | None:
        """Make keys and values ``[H, N, D]`` of the bank's windows."""
        hidden_states = self.bank.hidden_states(layer, self.bank_windows)
        if hidden_states is None:
            return None
        adapter = self.adapters[layer]
        _, key, value = adapter.project(attention, hidden_states[None])
        return self._remembered(adapter, key)[0], value[0]

    def _remembered(self, adapter: Adapter, key: Tensor) -> Tensor:
        """Return keys as other windows see them."""
        return adapter.at_first_position(key, self.decoder) if self._positionals else key

    def _positions(self, key: Tensor) -> Tensor:
        """Return where windows stand that are directly before another: int64 ``[B or 1, T]``."""
        mask, places = self._padding_mask, torch.arange(key.shape[2], device=key.device)[None]
        if mask is None:
            return places - key.shape[2]
        return places - mask[self._layout.seen].sum(1, keepdim=True)

    def _sharpened(self, layer: int, query: Tensor) -> Tensor:
        """Divide queries ``[B, H * G, T, D]`` by the temperatures of their heads."""
        temperatures = self.log_temperatures[self.layers.index(layer)].exp()
        return query / temperatures[:, None, None].to(query)

    def _log_temperatures(self, temperature: float) -> nn.Parameter:
        config: Any = self.decoder.config
        device = next(self.decoder.parameters()).device
        own = head_temperatures(config, self.layers)
        alike = torch.ones(config.num_attention_heads)
        rows = [own.get(layer, alike).flatten() * temperature for layer in self.layers]
        return nn.Parameter(torch.stack(rows).log().to(device))

    def _pattern(
        self, layer: int, scale: float, attention_mask: Tensor | None, device: torch.device
    ) -> AttentionPattern:
        layout, mask = self._layout, self._padding_mask
        ages = torch.ones(len(layout)) if self.ages is None else self.ages
        contexts, recent = layout.contexts(self.d), None
        if self.recent:
            recent = layout.recent(self.d, ages)
            pairs = zip(contexts, recent, strict=True)
            contexts = [[each for each in windows if each != before] for windows, before in pairs]
        steps = layout.ages(ages) * self._window / age_step(self._window)
        weights = log_weights(steps, decay_of(self.decay, layer)).exp()
        weights = torch.where(layout.negatives(), weights * self.negative_weight, weights)
        return AttentionPattern(
            contexts=contexts,
            recent=recent,
            scale=scale,
            padding_mask=None if mask is None else mask[layout.later],
            window_mask=None if attention_mask is None else _shown(attention_mask).chunk(2)[-1],
            context_padding_mask=None if mask is None else _without_first(mask[layout.seen]),
            context_weights=weights.to(device),
            bank_weight=self.bank_weight,
        )


def _block(decoder: nn.Module, attention: nn.Module) -> nn.Module:
    """Return the layer of a decoder that an attention module belongs to."""
    [name] = [name for name, module in decoder.named_modules() if module is attention]
    parts = name.split(".")
    for length in range(1, len(parts)):
        if isinstance(decoder.get_submodule(".".join(parts[: length - 1])), nn.ModuleList):
            return decoder.get_submodule(".".join(parts[:length]))
    raise ModelError(
        f"{name} of {type(decoder).__name__} is in no list of layers (torch.nn.ModuleList): its "
        "model can have a memory, but cannot be trained to use it"
    )


def _without_first(mask: Tensor) -> Tensor:
    """Hide the first token of each window in a padding mask ``[W, T]``: ``[W, T - 1]``."""
    return (mask & (mask.cumsum(1) > 1))[:, 1:]


def _shown(mask: Tensor) -> Tensor:
    """Return what a decoder's mask shows, whether it is boolean or added to the scores."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
