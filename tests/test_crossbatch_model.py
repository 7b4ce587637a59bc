"""A model in crossbatch training against the same model with an attached memory."""

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import fotmem
from fotmem import aging
from fotmem.crossbatch import Crossbatch
from fotmem.crossbatch.layout import Layout
from fotmem.errors import AttachError, LayerError, OptionError, ShapeError
from tests import tiny
from tests.tiny import LAYERS, WINDOW, contents, difference, one_thread  # noqa: F401 - a fixture
from tests.traces import assert_untouched, snapshot


def windows(documents: int, count: int = 2, *, seed: int = 0) -> Tensor:
    """Consecutive windows of some documents, ``[documents, count, T]``."""
    ids = [tiny.ids(count * WINDOW, seed=seed + row) for row in range(documents)]
    return torch.cat(ids).view(documents, count, WINDOW)


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
def test_pairs_equal_an_attached_memory(variant: str, d: int, distance: int) -> None:
    model = tiny.llama(variant)
    pairs = windows(3)
    with Crossbatch(model, LAYERS, distance=distance) as crossbatch:
        crossbatch.d = d
        alone, logits = model(pairs.flatten(0, 1)).logits.unflatten(0, (3, 2)).unbind(1)
    previous, current = pairs.unbind(1)
    assert difference(alone, model(previous).logits) <= 1e-4
    for row in range(3):
        context = [previous[(row + step) % 3] for step in range(d)]
        expected = remembered(model, context, current[row], distance=distance)
        assert difference(logits[row], expected) <= 1e-4


@pytest.mark.parametrize("variant", tiny.VARIANTS)
@pytest.mark.parametrize("d", [0, 1, 2, 3])
def test_all_windows_before_equal_an_attached_memory(variant: str, d: int) -> None:
    model = tiny.llama(variant)
    counts = [4, 2, 3]
    documents = [windows(1, count, seed=count)[0] for count in counts]
    with Crossbatch(model, LAYERS, distance=7) as crossbatch:
        crossbatch.windows_per_document, crossbatch.d = counts, d
        logits = model(torch.cat(documents)).logits.split(counts)
    for row, document in enumerate(documents):
        assert difference(logits[row][0], model(document[:1]).logits[0]) <= 1e-4
        others = [window for step in range(1, d) for window in documents[(row + step) % 3][:-1]]
        for place in range(1, len(document)):
            context = [*document[:place], *others] if d else []
            expected = remembered(model, context, document[place], distance=7)
            assert difference(logits[row][place], expected) <= 1e-4


def test_the_weight_of_negatives_equals_a_memory_with_so_many_copies_of_them() -> None:
    model = tiny.llama()
    counts = [3, 2]
    documents = [windows(1, count, seed=count)[0] for count in counts]
    with Crossbatch(model, LAYERS) as crossbatch:
        crossbatch.windows_per_document, crossbatch.d = counts, 2
        crossbatch.negative_weight = 3.0
        logits = model(torch.cat(documents)).logits.split(counts)
        crossbatch.d = 1
        alone = model(torch.cat(documents)).logits.split(counts)
    for row, document in enumerate(documents):
        others = [*documents[1 - row][:-1]]
        for place in range(1, len(document)):
            before = [*document[:place]]
            expected = remembered(model, [*before, *others * 3], document[place])
            assert difference(logits[row][place], expected) <= 1e-4
            expected = remembered(model, before, document[place])
            assert difference(alone[row][place], expected) <= 1e-4


def test_the_bank_equals_an_attached_memory() -> None:
    model = tiny.llama()
    first, second = windows(2), windows(2, seed=5)
    with Crossbatch(model, LAYERS, bank_windows=3) as crossbatch:

        def later() -> Tensor:
            logits: Tensor = model(first.flatten(0, 1)).logits[1::2]
            return logits

        for batch in (first, first, second):
            model(batch.flatten(0, 1))
            crossbatch.commit()
        kept = [first[1, 0], *second[:, 0]]  # the oldest went
        logits = later()
        crossbatch.bank_weight = 3.0
        weighed = later()
        crossbatch.bank_weight = 1.0
        crossbatch.bank_windows = 1
        with_latest = later()
        crossbatch.bank_windows = 0
        without = later()
    for row, (previous, current) in enumerate(first):
        expected = remembered(model, [*kept, previous], current)
        assert difference(logits[row], expected) <= 1e-4
        thrice = remembered(model, [*kept * 3, previous], current)
        assert difference(weighed[row], thrice) <= 1e-4
        latest = remembered(model, [kept[-1], previous], current)
        assert difference(with_latest[row], latest) <= 1e-4
        alone = remembered(model, [previous], current)
        assert difference(without[row], alone) <= 1e-4


def test_all_windows_but_the_last_of_each_document_go_into_the_bank() -> None:
    model = tiny.llama()
    batch, pair = windows(2, 3), windows(1, seed=9)[0]
    with Crossbatch(model, LAYERS, bank_windows=9) as crossbatch:
        crossbatch.windows_per_document = [3, 3]
        model(batch.flatten(0, 1))
        crossbatch.commit()
        assert len(crossbatch.bank) == 4
        crossbatch.windows_per_document = None
        logits = model(pair).logits[1]
    context = [*batch[:, :2].flatten(0, 1), pair[0]]
    assert difference(logits, remembered(model, context, pair[1])) <= 1e-4


def test_ages_lower_the_weight_of_windows() -> None:
    model = tiny.llama()
    batch = windows(2)
    with Crossbatch(model, LAYERS, decay=0.5) as crossbatch:
        crossbatch.d = 2
        crossbatch.ages = torch.tensor([1 / 4, 1.0])  # the first counts twice
        logits = model(batch.flatten(0, 1)).logits[1::2]
    previous = batch[:, 0]
    for row in range(2):
        expected = remembered(model, [previous[0], *previous], batch[row, 1])
        assert difference(logits[row], expected) <= 1e-4


def test_a_long_window_ages_as_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a memory: see `test_a_text_ages_as_quickly_in_long_windows`."""
    model, batch = tiny.llama(), windows(2).flatten(0, 1)
    with Crossbatch(model, LAYERS, decay=0.5) as crossbatch:
        crossbatch.ages = torch.tensor([4.0, 4.0])
        expected = model(batch).logits
        monkeypatch.setattr(aging, "LONGEST_AGE_STEP", batch.shape[1] / 4)
        assert difference(model(batch).logits, expected) > 1e-3
        crossbatch.ages = torch.tensor([1.0, 1.0])
        assert difference(model(batch).logits, expected) <= 1e-5


def test_old_windows_age_twice_as_fast() -> None:
    model, batch, found = tiny.llama(), windows(2).flatten(0, 1), []
    for age, decay in ((16.0, 0.3), (8.0, 0.5)):  # (16 * 16 / 8) ** -0.3 == 8 ** -0.5
        with Crossbatch(model, LAYERS, decay=decay) as crossbatch:
            crossbatch.ages = torch.full((2,), age)
            found.append(model(batch).logits)
    assert difference(*found) <= 1e-5


def test_each_layer_has_its_own_decay() -> None:
    model, batch = tiny.llama(), windows(2).flatten(0, 1)
    found = []
    for decay in (0.5, {1: 0.5, 3: 0.5}, {1: 0.5}, {3: 0.5}, 0.0, {}):
        with Crossbatch(model, LAYERS, decay=decay) as crossbatch:
            crossbatch.ages = torch.tensor([4.0, 9.0])
            found.append(model(batch).logits)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[4], found[5])
    apart = [found[0], *found[2:5]]
    assert all(difference(one, other) > 1e-3 for one, other in itertools.combinations(apart, 2))


def test_older_windows_of_a_document_have_less_weight() -> None:
    layout = Layout(5, [3, 2])
    assert (layout.seen, layout.later) == ([0, 1, 3], [1, 2, 4])
    assert layout.contexts(2) == [[0, 2], [0, 1, 2], [2, 0, 1]]  # places in `seen`
    ages = layout.ages(torch.tensor([1.0, 30.5]))
    assert ages.tolist()[1:] == [[2.0, 1.0, 30.5], [2.0, 1.0, 30.5]]
    assert ages[0, [0, 2]].tolist() == [1.0, 30.5]
    windows = torch.arange(5)
    assert torch.equal(layout.single(layout.doubled(windows)), windows)
    assert layout.single(torch.arange(6)).tolist() == [0, 3, 4, 2, 5]


def test_temperature_equals_that_of_an_attached_memory() -> None:
    model = tiny.llama()
    first, pair = windows(2, seed=5), windows(1)[0]
    with Crossbatch(model, LAYERS, bank_windows=2, temperature=0.25) as crossbatch:
        model(first.flatten(0, 1))
        crossbatch.commit()
        logits = model(pair).logits[1]
    expected = remembered(model, [*first[:, 0], pair[0]], pair[1], temperature=0.25)
    assert difference(logits, expected) <= 1e-4


def test_temperatures_of_heads_equal_those_of_an_attached_memory() -> None:
    model = tiny.llama()
    first, pair = windows(2, seed=5), windows(1)[0]
    heads = {str(LAYERS[0]): [0.25, 0.5, 1.0, 2.0]}  # the other layer has none
    model.config.mem_head_temperatures = heads
    with Crossbatch(model, LAYERS, bank_windows=2, temperature=0.5) as crossbatch:
        assert crossbatch.temperatures == {LAYERS[0]: [0.125, 0.25, 0.5, 1], LAYERS[1]: [0.5] * 4}
        model(first.flatten(0, 1))
        crossbatch.commit()
        logits = model(pair).logits[1]
        logits.square().mean().backward()
        gradient = crossbatch.log_temperatures.grad
        assert gradient is not None
        assert bool(gradient.all())
    context = [*first[:, 0], pair[0]]
    assert difference(logits, remembered(model, context, pair[1], temperature=0.5)) <= 1e-4
    del model.config.mem_head_temperatures
    assert difference(logits, remembered(model, context, pair[1], temperature=0.5)) > 1e-3


def test_padding_changes_nothing() -> None:
    model = tiny.llama()
    (one, other), (two, more) = windows(2)
    mask = torch.ones(4, WINDOW, dtype=torch.long)
    mask[0, 9:] = 0
    mask[3, 5:] = 0
    with Crossbatch(model, LAYERS, bank_windows=2) as crossbatch:
        crossbatch.d = 2
        logits = model(torch.stack([one, other, two, more]), attention_mask=mask).logits
        crossbatch.commit()
        kept = crossbatch.bank.hidden_states(LAYERS[0], 2)
    context = [two, one[:9]]
    assert difference(logits[0, :9], model(one[None, :9]).logits[0]) <= 1e-4
    assert difference(logits[1], remembered(model, context, other)) <= 1e-4
    assert difference(logits[3, :5], remembered(model, context, more[:5])) <= 1e-4
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
    model, ids = tiny.llama(), windows(2).flatten(0, 1)
    plain, kept = gradients(model, ids, checkpointing=False)
    again, kept_again = gradients(model, ids, checkpointing=True)
    assert kept == kept_again == 4
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other)
    assert all(bool(gradient.any()) for gradient in plain)


def test_the_state_can_be_saved() -> None:
    model = tiny.llama()
    with Crossbatch(model, LAYERS, bank_windows=2) as crossbatch:
        model(windows(2).flatten(0, 1))
        crossbatch.commit()
        with torch.no_grad():
            crossbatch.log_temperatures.uniform_()
        state, temperatures = crossbatch.state_dict(), crossbatch.temperatures
    with Crossbatch(model, LAYERS, bank_windows=2) as crossbatch:
        assert crossbatch.temperatures != temperatures
        crossbatch.load_state_dict(state)
        assert crossbatch.temperatures == temperatures
        assert len(crossbatch.bank) == 2


def test_the_bank_can_be_saved() -> None:
    model = tiny.llama()
    with Crossbatch(model, LAYERS, bank_windows=3) as crossbatch:
        for seed in range(2):
            model(windows(2, seed=seed).flatten(0, 1))
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
        with pytest.raises(ShapeError, match="two windows of the documents"):
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
