"""The demo model itself: a real LLaMA, with grouped queries, from its package."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import pipeline

import fotmem
from fotmem.models.load import load_model
from fotmem.tasks.answer import answer_question
from tests import folders
from tests.tiny import one_thread  # noqa: F401 - faster here too, where others use the machine

FACT = " Professor Ivanova's favourite animal is the"
TRUTH = " hedgehog"

pytestmark = pytest.mark.thorough  # loading the model takes long


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    try:
        return load_model("smollm2")
    except fotmem.errors.InputError as error:
        pytest.skip(str(error))  # names the command that installs it


@pytest.fixture(scope="module")
def plain(loaded: tuple[Any, Any]) -> Any:
    return loaded[0]


@pytest.fixture(scope="module")
def tokenizer(loaded: tuple[Any, Any]) -> Any:
    return loaded[1]


@pytest.fixture(scope="module")
def book(tokenizer: Any) -> tuple[list[int], range]:
    """Some 1,500 tokens of prose with a fact in them, and where its answer stands."""
    text = tokenizer(folders.PROSE).input_ids[:1480]
    fact, truth = tokenizer(FACT).input_ids, tokenizer(TRUTH).input_ids
    text[500:500] = [*fact, *truth, *tokenizer(".").input_ids]
    begin = 500 + len(fact)
    return text, range(begin, begin + len(truth))


@pytest.fixture
def memory(plain: Any, book: tuple[list[int], range]) -> Iterator[fotmem.Memory]:
    with fotmem.attach(plain, top_k=16, window=512) as memory:
        yield memory


def test_it_is_loaded_ready_to_use(plain: Any) -> None:
    assert plain.config.mem_layers == [17, 18, 20, 21, 23]
    assert (plain.dtype, plain.training) == (torch.float32, False)


def test_an_empty_memory_changes_nothing(plain: Any, tokenizer: Any) -> None:
    ids = torch.tensor([tokenizer(folders.PROSE).input_ids[:60]])
    with torch.no_grad():
        expected = plain(ids).logits
        with fotmem.attach(plain, window=512):
            found = plain(ids).logits
        after = plain(ids).logits
    assert torch.equal(found, expected)
    assert torch.equal(after, expected)


def test_the_untrained_model_attends_to_a_fact_far_back(
    plain: Any, tokenizer: Any, memory: fotmem.Memory, book: tuple[list[int], range]
) -> None:
    """Untuned, it need not say it: texts differ from one Python to the next, and distract it."""
    text, place = book
    prompt = text[-16:] + tokenizer(FACT).input_ids

    def likely() -> float:
        """Return how likely what is true begins."""
        with torch.no_grad():
            logits = plain(torch.tensor([prompt])).logits[0, -1]
        return float(logits.softmax(-1)[text[place.start]])

    blind = likely()
    said = answer_question(plain, tokenizer, prompt, max_new_tokens=len(place))
    assert (said.text == TRUTH.strip(), said.sources) == (False, [])
    memory.read(text)
    given = answer_question(plain, tokenizer, prompt, memory=memory, max_new_tokens=len(place))
    assert given.sources[0].position in place
    assert likely() > 20 * blind


def test_the_tuned_model_finds_a_fact_far_back(book: tuple[list[int], range]) -> None:
    """Whichever text it stands in."""
    text, place = book
    tuned, tokenizer = load_model("smollm2-fot")
    prompt = text[-16:] + tokenizer(FACT).input_ids
    said = answer_question(tuned, tokenizer, prompt, max_new_tokens=len(place))
    assert (said.text == TRUTH.strip(), said.sources) == (False, [])
    with fotmem.attach(tuned, top_k=16, window=512) as memory:
        memory.read(text)
        given = answer_question(tuned, tokenizer, prompt, memory=memory, max_new_tokens=len(place))
    assert given.text == TRUTH.strip()
    assert given.sources[0].position in place


def test_the_untrained_model_says_what_it_reads_again(
    plain: Any, tokenizer: Any, memory: fotmem.Memory, book: tuple[list[int], range]
) -> None:
    """The first token gets most attention, whatever is asked: it is a sink, no passage."""
    text, place = book
    memory.read(text, overlap=16)
    prompt, asked = text[-16:], tokenizer(FACT).input_ids
    ids, found = memory.reread([*prompt, *asked], passages=2, asking=len(asked))
    assert found[0].start <= place.start < place.stop <= found[0].stop
    assert all(each.start > 0 for each in found)
    with fotmem.using():
        said = answer_question(plain, tokenizer, ids[0].tolist(), max_new_tokens=len(place))
    assert said.text == TRUTH.strip()
    everything = memory.retrieve(asked, passages=2 * len(text), tokens=1)
    assert max(everything, key=lambda each: each.weight).start > 0
    plain(torch.tensor([asked]))
    assert memory.explain()[0].position == 0


def test_a_pipeline(
    plain: Any, tokenizer: Any, memory: fotmem.Memory, book: tuple[list[int], range]
) -> None:
    memory.read(book[0][400:600])
    generate = pipeline("text-generation", model=plain, tokenizer=tokenizer)
    [given] = generate(FACT, max_new_tokens=3, do_sample=False)
    ids = tokenizer(FACT).input_ids
    expected = answer_question(plain, tokenizer, ids, max_new_tokens=3)
    assert given["generated_text"] == f"{FACT} {expected.text}"


def test_bfloat16_and_saving(
    plain: Any, tokenizer: Any, book: tuple[list[int], range], tmp_path: Path
) -> None:
    text, place = book
    half = copy.deepcopy(plain).to(torch.bfloat16)
    half.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, same_tokenizer = load_model(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()  # 270 MB
    assert (model.dtype, model.config.mem_layers) == (torch.bfloat16, plain.config.mem_layers)
    for name, weight in half.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight)

    prompt = text[-16:] + same_tokenizer(FACT).input_ids
    with fotmem.attach(model, layers=range(17, 22), top_k=16, window=256) as memory:
        memory.read(text[400:600])
        assert memory.store(17).dtype == torch.bfloat16
        given = answer_question(model, tokenizer, prompt, memory=memory, max_new_tokens=1)
    assert {source.position + 400 for source in given.sources} & set(place)
