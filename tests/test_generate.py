"""`generate` in all its ways, and the text-generation pipeline."""

import copy
from typing import Any, NamedTuple

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import PreTrainedTokenizerFast, TextStreamer, pipeline
from transformers.generation.streamers import BaseStreamer

import fotmem
from fotmem import MemoryCache
from tests import tiny
from tests.oracle import Oracle
from tests.tiny import (  # noqa: F401 - `one_thread` is a fixture
    BOS,
    EOS,
    LAYERS,
    PAD,
    VOCABULARY,
    WINDOW,
    difference,
    generate,
    one_thread,
)

SAMPLING: dict[str, Any] = {"do_sample": True, "top_k": 0}


def model_and_oracle(top_k: int | None = None, variant: str = "gqa") -> tuple[Any, Oracle]:
    """Attach a memory that has read something, and an oracle that has read the same."""
    model = tiny.llama(variant)
    oracle = Oracle(model, LAYERS, window=WINDOW, top_k=top_k)
    memory = fotmem.attach(model, layers=LAYERS, window=WINDOW, top_k=top_k)
    for reader in (memory, oracle):
        reader.read(tiny.ids(40))
    return model, oracle


@pytest.mark.parametrize("top_k", [None, 4])
@pytest.mark.parametrize("length", [1, 9, WINDOW, WINDOW + 1, 50])
def test_greedy_equals_oracle(length: int, top_k: int | None) -> None:
    model, oracle = model_and_oracle(top_k)
    question = tiny.ids(length, seed=1)
    assert torch.equal(generate(model, question, 36)[0], oracle.greedy(question, 36))


def test_without_cache_every_step_is_one_call() -> None:
    model, oracle = model_and_oracle()
    question = tokens = tiny.ids(9, seed=1)
    for _ in range(20):
        oracle.new_sequence()
        tokens = torch.cat([tokens, oracle.forward(tokens)[-1].argmax().reshape(1, 1)], 1)
    assert torch.equal(generate(model, question, 20, use_cache=False), tokens)
    inside = WINDOW - 9
    assert torch.equal(generate(model, question, inside), tokens[:, :WINDOW])


@pytest.mark.parametrize("size", [3, 7, 30])
def test_prefill_in_chunks_equals_oracle(size: int) -> None:
    model, oracle = model_and_oracle()
    question = tiny.ids(50, seed=1)
    logits = [oracle.forward(chunk) for chunk in question.split(size, dim=1)][-1]
    expected = []
    for _ in range(8):
        expected.append(int(logits[-1].argmax()))
        logits = oracle.forward(expected[-1:])
    actual = generate(model, question, 8, prefill_chunk_size=size)
    assert actual[0, 50:].tolist() == expected


def test_embeddings_instead_of_ids() -> None:
    model, _ = model_and_oracle()
    question = tiny.ids(50, seed=1)
    embeddings = model.get_input_embeddings()(question)
    actual = generate(model, None, 12, inputs_embeds=embeddings)
    assert torch.equal(actual, generate(model, question, 12)[:, 50:])


def test_sampling_draws_from_the_oracles_distribution() -> None:
    model, oracle = model_and_oracle()
    question = tiny.ids(30, seed=1)
    torch.manual_seed(5)
    logits, expected = oracle.forward(question), []
    for _ in range(25):
        weights = torch.softmax(logits[-1:].float(), -1)
        expected.append(int(torch.multinomial(weights, 1)))
        logits = oracle.forward(expected[-1:])
    for _ in range(2):
        torch.manual_seed(5)
        assert generate(model, question, 25, **SAMPLING)[0, 30:].tolist() == expected


def assert_same_logits(model: Any, prompt: Tensor, out: Any) -> None:
    """Compare what every returned sequence was drawn from with the same tokens run alone."""
    for row, sequence in enumerate(out.sequences):
        cache = None
        new = prompt
        for step, logits in enumerate(out.logits):
            alone = model(new, **tiny.cached(cache))
            cache = alone.past_key_values
            assert difference(logits[row], alone.logits[0, -1]) <= 2e-5
            new = sequence[prompt.shape[1] + step].reshape(1, 1)


def test_returned_sequences_keep_their_own_overflow() -> None:
    model, _ = model_and_oracle()
    question = tiny.ids(12, seed=1)
    torch.manual_seed(0)
    out = generate(
        model,
        question,
        40,
        num_return_sequences=3,
        return_dict_in_generate=True,
        output_logits=True,
        **SAMPLING,
    )
    assert len({tuple(sequence.tolist()) for sequence in out.sequences}) == 3
    assert_same_logits(model, question, out)
    assert len(out.past_key_values.store(1, row=2)) > 0


class Beam(NamedTuple):
    score: float
    tokens: tuple[int, ...]
    cache: MemoryCache
    logits: Tensor


def naive_beams(model: Any, prompt: Tensor, width: int, steps: int) -> list[Beam]:
    """Search with beams that each hold a cache of their own."""
    out = model(prompt)
    beams = [Beam(0.0, (), out.past_key_values, out.logits[0, -1])]
    for _ in range(steps):
        found = []
        for beam in beams:
            best = beam.logits.log_softmax(-1).topk(width)
            found += [
                (beam.score + float(score), beam, int(token))
                for score, token in zip(*best, strict=True)
            ]
        beams = []
        for score, beam, token in sorted(found, key=lambda entry: -entry[0])[:width]:
            cache = copy.deepcopy(beam.cache)
            logits = model(torch.tensor([[token]]), **tiny.cached(cache)).logits[0, -1]
            beams.append(Beam(score, (*beam.tokens, token), cache, logits))
    return beams


@pytest.mark.parametrize("length, steps", [(3, 12), (9, 30), (40, 14)])
def test_beams_equal_beams_with_separate_caches(length: int, steps: int) -> None:
    model, _ = model_and_oracle()
    question = tiny.ids(length, seed=1)
    expected = naive_beams(model, question, 4, steps)
    options = {"num_beams": 4, "num_return_sequences": 4}
    actual = generate(model, question, steps, **options)[:, length:]
    assert [tuple(row) for row in actual.tolist()] == [beam.tokens for beam in expected]
    if length + steps <= WINDOW:
        without = generate(model, question, steps, use_cache=False, **options)[:, length:]
        assert torch.equal(without, actual)


def test_beams_of_a_padded_batch_equal_beams_alone() -> None:
    model, _ = model_and_oracle()
    texts = tiny.rows(5, 13, 41)
    ids, mask = tiny.padded(texts)
    options = {"num_beams": 3, "num_return_sequences": 2}
    together = generate(model, ids, 24, attention_mask=mask, **options)
    for row, text in enumerate(texts):
        alone = generate(model, text, 24, **options)
        assert torch.equal(together[2 * row : 2 * row + 2, ids.shape[1] :], alone[:, -24:])


def test_beams_that_sample() -> None:
    model, _ = model_and_oracle()
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(generate(model, tiny.ids(20, seed=1), 24, num_beams=3, **SAMPLING))
    assert torch.equal(*results)


class Collected(BaseStreamer):
    def __init__(self) -> None:
        self.tokens: list[int] = []

    def put(self, value: Tensor) -> None:
        self.tokens += value.flatten().tolist()

    def end(self) -> None:
        self.tokens.append(-1)


def test_streaming() -> None:
    model, _ = model_and_oracle()
    streamer = Collected()
    out = generate(model, tiny.ids(12, seed=1), 20, streamer=streamer)
    assert streamer.tokens == [*out[0].tolist(), -1]


def words() -> PreTrainedTokenizerFast:
    vocabulary = {"<pad>": PAD, "<s>": BOS, "</s>": EOS}
    vocabulary |= {f"w{index}": index for index in range(3, VOCABULARY)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def test_pipeline(capsys: pytest.CaptureFixture[str]) -> None:
    model, _ = model_and_oracle()
    tokenizer: Any = words()
    texts = [tokenizer.decode(text[0]) for text in tiny.rows(5, 40)]
    answer = pipeline("text-generation", model=model, tokenizer=tokenizer)
    options = {"do_sample": False, "eos_token_id": None, "return_full_text": False}
    together = answer(texts, batch_size=2, max_new_tokens=20, **options)
    for text, found in zip(texts, together, strict=True):
        expected = generate(model, tokenizer(text, return_tensors="pt").input_ids, 20)
        assert found[0]["generated_text"].split() == tokenizer.decode(expected[0, -20:]).split()
    streamer = TextStreamer(tokenizer, skip_prompt=True)
    answer(texts[0], max_new_tokens=20, streamer=streamer, **options)
    assert capsys.readouterr().out.split() == together[0][0]["generated_text"].split()
