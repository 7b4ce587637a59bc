"""Every row of a padded batch equals the row alone, wherever its padding stands."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaForCausalLM

import fotmem
from fotmem import MemoryCache
from fotmem.errors import InputError, ShapeError, UnsupportedError
from tests import tiny
from tests.tiny import (  # noqa: F401 - `one_thread` is a fixture
    LAYERS,
    PAD,
    WINDOW,
    contents,
    difference,
    generate,
    one_thread,
)

TOLERANCE = 2e-5
sides = pytest.mark.parametrize("side", ["left", "right"])


def assert_same_overflow(cache: MemoryCache, row: int, alone: MemoryCache) -> None:
    for layer in LAYERS:
        stores = cache.store(layer, row), alone.store(layer)
        assert len(stores[0]) == len(stores[1])
        for mine, theirs in zip(*(contents(store) for store in stores), strict=True):
            assert difference(mine, theirs) <= TOLERANCE


def has_hole(mask: Tensor) -> bool:
    """Whether padding stands between the tokens of a row."""
    return any("10" in "".join(map(str, row)).rstrip("0") for row in mask.tolist())


class Rows:
    """The same calls twice: all rows as one padded batch, and each row alone."""

    def __init__(self, model: LlamaForCausalLM, rows: int) -> None:
        self.model = model
        self.mask = torch.zeros(rows, 0, dtype=torch.long)
        self.together: MemoryCache | None = None
        self.alone: list[MemoryCache | None] = [None] * rows

    def call(self, ids: Tensor, mask: Tensor) -> None:
        """Go on with ``ids [B, n]`` and compare logits and overflow of every row."""
        self.mask = torch.cat([self.mask, mask], 1)
        options = tiny.cached(self.together)
        if has_hole(mask):  # the plain model would count it, so it has to be said
            options["position_ids"] = (self.mask.cumsum(1) - 1)[:, -ids.shape[1] :]
        out = self.model(ids, attention_mask=self.mask, **options)
        self.together = out.past_key_values
        assert out.logits.isfinite().all()
        for row, real in enumerate(mask.bool()):
            if not real.any():
                continue
            text = ids[row : row + 1, real]
            alone = self.model(text, **tiny.cached(self.alone[row]))
            self.alone[row] = alone.past_key_values
            assert difference(out.logits[row][real], alone.logits[0]) <= TOLERANCE
            assert_same_overflow(out.past_key_values, row, alone.past_key_values)


@sides
@pytest.mark.parametrize(
    "lengths", [(5, 9), (WINDOW, 1), (WINDOW + 1, WINDOW), (3, 50, 71, 20), (33, 16, 17, 1)]
)
@pytest.mark.parametrize("remembered", [0, 40])
def test_rows_equal_rows_alone(remembered: int, lengths: tuple[int, ...], side: str) -> None:
    model = tiny.llama()
    with fotmem.attach(model, layers=LAYERS, window=WINDOW, top_k=None) as memory:
        memory.read(tiny.ids(remembered))
        rows = Rows(model, len(lengths))
        rows.call(*tiny.padded(tiny.rows(*lengths), side))
        for step in range(WINDOW + 2):  # rows overflow at different times
            token = torch.cat(tiny.rows(*[1] * len(lengths), seed=10 * (step + 1)))
            rows.call(token, torch.ones_like(token))


@settings(max_examples=30)
@given(data=st.data())
def test_any_padding_in_any_call(data: st.DataObject) -> None:
    batch = data.draw(st.integers(1, 4), label="batch")
    window = data.draw(st.integers(2, 20), label="window")
    last = data.draw(st.integers(1, window), label="last_context_length")
    top_k = data.draw(st.sampled_from([None, 1, 4]), label="top_k")
    model = tiny.llama(data.draw(st.sampled_from(["gqa", "one_head"]), label="variant"))
    with fotmem.attach(
        model, layers=LAYERS, window=window, last_context_length=last, top_k=top_k
    ) as memory:
        memory.read(tiny.ids(data.draw(st.sampled_from([0, 21]), label="remembered")))
        rows = Rows(model, batch)
        for length in data.draw(st.lists(st.integers(1, 50), min_size=1, max_size=4)):
            ids = torch.cat(tiny.rows(*[length] * batch, seed=length))
            seed = data.draw(st.integers(0, 99), label="seed")
            density = data.draw(st.sampled_from([0.0, 0.2, 0.7, 1.0]), label="density")
            generator = torch.Generator().manual_seed(seed)
            mask = (torch.rand(ids.shape, generator=generator) < density).long()
            rows.call(ids.where(mask.bool(), PAD), mask)


@sides
def test_padding_never_enters_memory(side: str) -> None:
    model, lengths = tiny.llama(), (40, 5, 0, 17)
    with fotmem.attach(model, layers=LAYERS, window=WINDOW, last_context_length=6):
        ids, mask = tiny.padded(tiny.rows(*lengths), side)
        cache = model(ids, attention_mask=mask).past_key_values
        for layer in LAYERS:
            assert [len(cache.store(layer, row)) for row in range(4)] == [34, 0, 0, 11]


@sides
def test_token_ids_of_padding_have_no_effect(side: str) -> None:
    model = tiny.llama()
    with fotmem.attach(model, layers=LAYERS, window=WINDOW):
        ids, mask = tiny.padded(tiny.rows(40, 5), side)
        noise = ids.where(mask.bool(), tiny.ids(40, seed=5))
        logits = [model(given, attention_mask=mask).logits[mask.bool()] for given in (ids, noise)]
        assert difference(*logits) <= TOLERANCE


@pytest.mark.parametrize("remembered", [0, 40])
@pytest.mark.parametrize("length", [7, 40])
def test_a_batch_of_padding_only(length: int, remembered: int) -> None:
    model = tiny.llama()
    with fotmem.attach(model, layers=LAYERS, window=WINDOW) as memory:
        memory.read(tiny.ids(remembered))
        nothing = torch.zeros(2, length, dtype=torch.long)
        out = model(nothing, attention_mask=nothing)
        assert out.logits.isfinite().all()
        assert len(out.past_key_values.store(1)) == 0
        assert memory.explain() == []


def test_generate_equals_rows_alone() -> None:
    model, texts = tiny.llama(), tiny.rows(3, 20, 45, 11)
    with fotmem.attach(model, layers=LAYERS, window=WINDOW, top_k=None) as memory:
        memory.read(tiny.ids(40))
        ids, mask = tiny.padded(texts)
        together = generate(model, ids, 24, attention_mask=mask)
        for row, text in zip(together, texts, strict=True):
            alone = generate(model, text, 24)
            assert row[ids.shape[1] - text.shape[1] :].tolist() == alone[0].tolist()


@pytest.mark.parametrize("remembered", [0, 40])
@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"num_beams": 2}], ids=str)
def test_generate_with_right_padding_equals_rows_alone(
    options: dict[str, object], remembered: int
) -> None:
    model, texts = tiny.llama(), tiny.rows(3, 12, 9)
    with fotmem.attach(model, layers=LAYERS, window=WINDOW, top_k=None) as memory:
        memory.read(tiny.ids(remembered))
        ids, mask = tiny.padded(texts, "right")
        together = generate(model, ids, 4, attention_mask=mask, **options)
        for row, text in zip(together, texts, strict=True):
            alone = generate(model, text, 4, **options)
            assert row[-4:].tolist() == alone[0, -4:].tolist()


HOLES = [[1, 1, 0, 0, 1, 1], [0, 1, 0, 1, 1, 1], [1, 0, 1, 1, 1, 0], [0, 1, 0, 1, 0, 0]]


@pytest.mark.parametrize("hole", HOLES)
@pytest.mark.parametrize("remembered", [0, 40])
def test_a_hole_in_the_mask_is_as_in_the_plain_model_or_refused(
    hole: list[int], remembered: int
) -> None:
    plain, model, ids = tiny.llama(), tiny.llama(), torch.cat(tiny.rows(6, 6))
    mask = torch.tensor([hole, [1] * 6])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with fotmem.attach(model, layers=LAYERS, window=WINDOW) as memory:
        memory.read(tiny.ids(remembered))
        for kind in (torch.long, torch.bool, torch.float32):
            with pytest.raises(
                UnsupportedError, match=r"^an attention_mask with a hole .* pass pos"
            ):
                model(ids, attention_mask=mask.to(kind))
            with pytest.raises(UnsupportedError, match="position_ids that are not consecutive"):
                model(ids, attention_mask=mask.to(kind), position_ids=torch.arange(6)[None])
        actual = model(ids, attention_mask=mask, position_ids=positions).logits[0][mask[0].bool()]
        alone = model(ids[:1, mask[0].bool()]).logits[0]
        assert difference(actual, alone) <= TOLERANCE
        if not remembered:
            wanted = plain(ids, attention_mask=mask, position_ids=positions).logits
            assert difference(actual, wanted[0][mask[0].bool()]) <= TOLERANCE


@pytest.mark.parametrize("value", [0.5, -1.0, 2.0, torch.nan, -torch.inf, 1e-9])
def test_masks_must_hold_ones_and_zeros(value: float) -> None:
    model, mask = tiny.llama(), torch.ones(1, 6)
    with fotmem.attach(model, layers=LAYERS, window=WINDOW):
        mask[0, 0] = value
        with pytest.raises(InputError, match=r"attention_mask must be 1 .* and 0 for padding, got"):
            model(tiny.ids(6), attention_mask=mask)
        additive = torch.zeros(1, 6)
        additive[0, 0] = -torch.inf
        with pytest.raises(InputError, match="a mask to be added to scores is not supported"):
            model(tiny.ids(6), attention_mask=additive)


@pytest.mark.parametrize("length", [1, 5, 7, 12, 13, 18, 19])
def test_masks_of_another_length_are_refused(length: int) -> None:
    """Without a cache 6 columns are right, in the second turn 6 and 12."""
    model = tiny.llama()
    with fotmem.attach(model, layers=LAYERS, window=WINDOW):
        mask = torch.ones(1, length)
        with pytest.raises(ShapeError, match=rf"attention_mask .*\b6\], got \[1, {length}\]"):
            model(tiny.ids(6), attention_mask=mask)
        cache = model(tiny.ids(6)).past_key_values
        if length != 12:
            with pytest.raises(ShapeError, match=r"\b6\] \(the input\), or \[B=1, 12\]"):
                model(tiny.ids(6), attention_mask=mask, **tiny.cached(cache))
        expected = model(tiny.ids(12)).logits[:, 6:]
        whole = model(tiny.ids(12)[:, 6:], attention_mask=torch.ones(1, 12), **tiny.cached(cache))
        assert whole.logits.shape == expected.shape


def first_turn(model: LlamaForCausalLM, new_tokens: int) -> tuple[Tensor, Tensor, MemoryCache]:
    """Generate two rows, of which the first ends at once; the mask a chat would pass next."""
    ids, mask = (F.pad(tensor, (2, 0)) for tensor in tiny.padded(tiny.rows(6, 9)))
    first = int(model(ids, attention_mask=mask).logits[0, -1].argmax())
    options = {"eos_token_id": first, "return_dict_in_generate": True}
    out = generate(model, ids, new_tokens, attention_mask=mask, **options)
    generated = out.sequences[:, ids.shape[1] :]
    assert generated[0].tolist() == [first] + [PAD] * (new_tokens - 1)
    assert first not in generated[1]
    return out.sequences, torch.cat([mask, (generated != PAD).long()], 1), out.past_key_values


def test_the_second_turn_hides_the_padding_of_finished_rows() -> None:
    model = tiny.llama()
    with fotmem.attach(model, layers=LAYERS, window=WINDOW, top_k=None):
        sequences, mask, cache = first_turn(model, new_tokens=5)
        question = torch.cat(tiny.rows(12, 12, seed=7))
        ids = torch.cat([sequences, question], 1)
        mask = torch.cat([mask, torch.ones_like(question)], 1)
        got = generate(model, ids, 9, attention_mask=mask, **tiny.cached(cache))
        alone = [ids[row : row + 1, real] for row, real in enumerate(mask.bool())]
        unseen = (12, 13)  # the last token of the second row was generated, but not yet run
        for row, text, new in zip(got, alone, unseen, strict=True):
            seen = model(text[:, :-new]).past_key_values
            wanted = generate(model, text, 9, **tiny.cached(seen))
            assert row[-9:].tolist() == wanted[0, -9:].tolist()


def test_the_second_turn_is_refused_if_padding_has_overflowed() -> None:
    model = tiny.llama()
    with fotmem.attach(model, layers=LAYERS, window=WINDOW):
        _, mask, cache = first_turn(model, new_tokens=14)
        question = torch.cat(tiny.rows(3, 3, seed=7))
        mask = torch.cat([mask[:, :-1], torch.ones_like(question)], 1)
        with pytest.raises(UnsupportedError, match="hides tokens which have left the local con"):
            model(question, attention_mask=mask, **tiny.cached(cache))
