"""A model in crossbatch training against the same model with an attached memory."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import fotmem
from fotmem.crossbatch import Crossbatch
from fotmem.crossbatch.earlier import EarlierWindows
from fotmem.errors import AttachError, LayerError, OptionError, ShapeError
from tests import tiny
from tests.tiny import LAYERS, WINDOW, contents, difference, one_thread  # noqa: F401 - a fixture
from tests.traces import assert_untouched, snapshot


def windows(rows: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Previous and current windows of some documents."""
    ids = torch.cat([tiny.ids(2 * WINDOW, seed=seed + row) for row in range(rows)])
    return ids[:, :WINDOW], ids[:, WINDOW:]


def remembered(model: Any, windows: Sequence[Tensor], current: Tensor, **options: Any) -> Tensor:
    """The logits of a current window, by a memory of these windows without their first tokens."""
    with fotmem.attach(model, layers=LAYERS, window=WINDOW, top_k=None, **options) as memory:
        for window in windows:
            memory.read(window, attend=False)
        kept = {layer: contents(store) for layer, store in memory.stores.items()}
        memory.clear()
        begins = [sum(map(len, windows[:place])) for place in range(len(windows))]
        later = [place for place in range(sum(map(len, windows))) if place not in begins]
        for layer, (keys, values) in kept.items():
            if later:
                memory.stores[layer].add(keys[:, later], values[:, later])
        with torch.no_grad():
            logits: Tensor = model(current[None]).logits[0]
    return logits


@pytest.mark.parametrize("variant", tiny.VARIANTS)
@pytest.mark.parametrize(("d", "distance"), [(0, 0), (1, 0), (2, 0), (3, 0), (1, 40), (3, 7)])
def test_equals_an_attached_memory(variant: str, d: int, distance: int) -> None:
    model = tiny.llama(variant)
    previous, current = windows(3)
    with Crossbatch(model, LAYERS, distance=distance) as crossbatch:
        crossbatch.d = d
        alone, logits = model(torch.cat([previous, current])).logits.split(3)
    assert difference(alone, model(previous).logits) <= 1e-4
    for row in range(3):
        context = [previous[(row + step) % 3] for step in range(d)]
        expected = remembered(model, context, current[row], distance=distance)
        assert difference(logits[row], expected) <= 1e-4


def test_the_bank_equals_an_attached_memory() -> None:
    model = tiny.llama()
    first, second = windows(2), windows(2, seed=5)
    with Crossbatch(model, LAYERS, bank_windows=3) as crossbatch:
        for previous, current in (first, first, second):
            model(torch.cat([previous, current]))
            crossbatch.commit()
        kept = [first[0][1], *second[0]]  # the oldest went
        logits = model(torch.cat(first)).logits[2:]
        crossbatch.bank_weight = 3.0
        weighed = model(torch.cat(first)).logits[2:]
        crossbatch.bank_weight = 1.0
        crossbatch.bank_windows = 1
        with_latest = model(torch.cat(first)).logits[2:]
        crossbatch.bank_windows = 0
        without = model(torch.cat(first)).logits[2:]
    for row in range(2):
        expected = remembered(model, [*kept, first[0][row]], first[1][row])
        assert difference(logits[row], expected) <= 1e-4
        thrice = remembered(model, [*kept * 3, first[0][row]], first[1][row])
        assert difference(weighed[row], thrice) <= 1e-4
        latest = remembered(model, [kept[-1], first[0][row]], first[1][row])
        assert difference(with_latest[row], latest) <= 1e-4
        alone = remembered(model, [first[0][row]], first[1][row])
        assert difference(without[row], alone) <= 1e-4


def test_ages_lower_the_weight_of_previous_windows() -> None:
    model = tiny.llama()
    previous, current = windows(2)
    with Crossbatch(model, LAYERS, decay=0.5) as crossbatch:
        crossbatch.d = 2
        crossbatch.ages = torch.tensor([1 / 4, 1.0])  # the first counts twice
        logits = model(torch.cat([previous, current])).logits[2:]
    for row in range(2):
        expected = remembered(model, [previous[0], *previous], current[row])
        assert difference(logits[row], expected) <= 1e-4


def test_temperature_equals_that_of_an_attached_memory() -> None:
    model = tiny.llama()
    first, (previous, current) = windows(2, seed=5), windows(1)
    with Crossbatch(model, LAYERS, bank_windows=2, temperature=0.25) as crossbatch:
        model(torch.cat(first))
        crossbatch.commit()
        logits = model(torch.cat([previous, current])).logits[1]
    expected = remembered(model, [*first[0], previous[0]], current[0], temperature=0.25)
    assert difference(logits, expected) <= 1e-4


@pytest.mark.parametrize("variant", tiny.VARIANTS)
def test_earlier_windows_equal_an_attached_memory(variant: str) -> None:
    model = tiny.llama(variant)
    previous, current = windows(3)
    some = [tiny.ids(count * WINDOW, seed=7 + count).view(-1, WINDOW) for count in (2, 0, 1)]
    with Crossbatch(model, LAYERS, distance=7) as crossbatch:
        crossbatch.d = 2
        crossbatch.read_earlier(some)
        logits = model(torch.cat([previous, current])).logits[3:]
        crossbatch.read_earlier([])
        without = model(torch.cat([previous, current])).logits[3:]
    for row in range(3):
        context = [previous[row], previous[(row + 1) % 3]]
        expected = remembered(model, [*some[row], *context], current[row], distance=7)
        assert difference(logits[row], expected) <= 1e-4
        expected = remembered(model, context, current[row], distance=7)
        assert difference(without[row], expected) <= 1e-4


def test_earlier_windows_are_older_than_the_previous_one() -> None:
    earlier = EarlierWindows(LAYERS)
    with earlier.reading([torch.zeros(2, 5), torch.zeros(0, 5), torch.zeros(1, 5)]):
        earlier.keep(LAYERS[-1], torch.zeros(3, 5, 8))
    ages = earlier.ages(torch.tensor([1.0, 30.5, 4.5]))
    assert ages.tolist() == [1.0, 30.5, 4.5, 3.0, 2.0, 5.5]
    assert earlier.added_to([[0, 1], [1], []]) == [[0, 1, 3, 4], [1], [5]]


def test_ages_lower_the_weight_of_earlier_windows() -> None:
    model = tiny.llama()
    previous, current = windows(1)
    window = tiny.ids(WINDOW, seed=7)
    with Crossbatch(model, LAYERS, decay=1.0) as crossbatch:
        crossbatch.d = 0
        crossbatch.ages = torch.tensor([(math.sqrt(5) - 1) / 2])
        crossbatch.read_earlier([window.expand(2, -1)])  # their weights add up to 1
        logits = model(torch.cat([previous, current])).logits[1]
    assert difference(logits, remembered(model, [window[0]], current[0])) <= 1e-4


def test_gradients_reach_the_keys_of_earlier_windows() -> None:
    model = tiny.llama().requires_grad_(False)
    previous, current = windows(1)
    weight = model.model.layers[LAYERS[-1]].self_attn.k_proj.weight.requires_grad_(True)
    gradients = []
    with Crossbatch(model, LAYERS) as crossbatch:
        crossbatch.d = 0
        for earlier in (tiny.ids(WINDOW, seed=7).view(1, WINDOW), previous[:0]):
            weight.grad = None
            crossbatch.read_earlier([earlier])
            model(torch.cat([previous, current])).logits[1].square().mean().backward()
            gradients.append(weight.grad)
    assert not torch.allclose(*gradients)


def test_earlier_windows_of_other_documents_are_refused() -> None:
    model = tiny.llama()
    previous, current = windows(2)
    with Crossbatch(model, LAYERS) as crossbatch:
        crossbatch.read_earlier([previous])
        with pytest.raises(ShapeError, match="each of the call's 2 documents"):
            model(torch.cat([previous, current]))


def test_a_reading_that_fails_leaves_no_earlier_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.llama()
    previous, current = windows(1)
    with Crossbatch(model, LAYERS) as crossbatch:
        plain = model(torch.cat([previous, current])).logits
        keep = EarlierWindows.keep

        def fail(earlier: EarlierWindows, layer: int, hidden_states: Tensor) -> None:
            if layer == LAYERS[-1]:
                raise MemoryError
            keep(earlier, layer, hidden_states)

        with monkeypatch.context() as patched:
            patched.setattr(EarlierWindows, "keep", fail)
            with pytest.raises(MemoryError):
                crossbatch.read_earlier([previous])
        assert torch.equal(model(torch.cat([previous, current])).logits, plain)


def test_padding_changes_nothing() -> None:
    model = tiny.llama()
    previous, current = windows(2)
    mask = torch.ones(4, WINDOW, dtype=torch.long)
    mask[0, 9:] = 0
    mask[3, 5:] = 0
    earlier = tiny.ids(WINDOW, seed=7).view(1, WINDOW)
    with Crossbatch(model, LAYERS, bank_windows=2) as crossbatch:
        crossbatch.d = 2
        crossbatch.read_earlier([earlier, earlier[:0]])
        logits = model(torch.cat([previous, current]), attention_mask=mask).logits[2:]
        crossbatch.commit()
        kept = crossbatch.bank.hidden_states(LAYERS[0], 2)
    context = [previous[1], previous[0, :9]]
    assert difference(logits[0], remembered(model, [*context, *earlier], current[0])) <= 1e-4
    assert difference(logits[1, :5], remembered(model, context, current[1, :5])) <= 1e-4
    assert kept is not None
    assert len(kept) == 9 + WINDOW - 2  # without the first token of each


def gradients(model: Any, ids: Tensor, *, checkpointing: bool) -> tuple[list[Tensor], int]:
    model = copy.deepcopy(model).train().requires_grad_(True)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    with Crossbatch(model, LAYERS, bank_windows=4) as crossbatch:
        crossbatch.d = 2
        for _ in range(2):
            model.zero_grad()
            model(ids).logits.square().mean().backward()
            crossbatch.commit()
        kept = len(crossbatch.bank)
    return [parameter.grad for parameter in model.parameters()], kept


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated")
def test_gradient_checkpointing_changes_nothing() -> None:
    model, ids = tiny.llama(), torch.cat(windows(2))
    plain, kept = gradients(model, ids, checkpointing=False)
    again, kept_again = gradients(model, ids, checkpointing=True)
    assert kept == kept_again == 4
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other)
    assert all(bool(gradient.any()) for gradient in plain)


def test_the_bank_can_be_saved() -> None:
    model = tiny.llama()
    with Crossbatch(model, LAYERS, bank_windows=3) as crossbatch:
        for seed in range(2):
            model(torch.cat(windows(2, seed=seed)))
            crossbatch.commit()
        other = fotmem.crossbatch.Bank(LAYERS, 3)
        other.load_state_dict(crossbatch.bank.state_dict())
        assert len(other) == 3
        for layer in LAYERS:
            one, two = (bank.hidden_states(layer, 3) for bank in (crossbatch.bank, other))
            assert one is not None
            assert two is not None
            assert torch.equal(one, two)
        smaller = fotmem.crossbatch.Bank(LAYERS, 2)
        smaller.load_state_dict(crossbatch.bank.state_dict())
        one = crossbatch.bank.hidden_states(LAYERS[0], 2)
        two = smaller.hidden_states(LAYERS[0], 2)
        assert one is not None
        assert two is not None
        assert torch.equal(one, two)


def test_detach_leaves_no_trace() -> None:
    model, ids = tiny.llama(), tiny.ids(9)
    before, plain = [dict(vars(module)) for module in model.modules()], model(ids).logits
    with Crossbatch(model, LAYERS):
        with pytest.raises(AttachError, match="has a memory already"):
            fotmem.attach(model, layers=LAYERS)
        with pytest.raises(ShapeError, match="B previous windows, then their current ones"):
            model(ids)
    assert [dict(vars(module)).keys() for module in model.modules()] == [
        module.keys() for module in before
    ]
    assert torch.equal(model(ids).logits, plain)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(LayerError, match="layers must be from 0 to 3, got 9"):
        Crossbatch(tiny.llama(), [9])
    with pytest.raises(OptionError, match="bank_windows must be at least 0, got -1"):
        Crossbatch(tiny.llama(), LAYERS, bank_windows=-1)
    with pytest.raises(OptionError, match="bank_weight must be above 0, got 0"):
        Crossbatch(tiny.llama(), LAYERS, bank_weight=0.0)


@pytest.mark.parametrize(
    "options",
    [
        {"decay": -5},
        {"decay": float("nan")},
        {"temperature": 0},
        {"temperature": float("nan")},
        {"temperature": True},
        {"bank_windows": 1.5},
        {"bank_windows": True},
        {"bank_weight": float("nan")},
        {"bank_weight": "1"},
    ],
    ids=str,
)
def test_wrong_numbers_are_refused(options: dict[str, Any]) -> None:
    model = tiny.llama()
    before = snapshot(model)
    with pytest.raises(OptionError, match=f"^{next(iter(options))} must be"):
        Crossbatch(model, LAYERS, **options)
    assert_untouched(model, before)
