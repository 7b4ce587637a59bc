"""Every token of a document knows its characters."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fotmem.documents import Document, TokenizedDocument, tokenized
from fotmem.errors import InputError
from fotmem.models.load import load_model
from tests import folders

KINDS = ("digits", "numbers", "llama")
TOKENIZERS = {kind: folders.tokenizer(kind, model_max_length=8) for kind in KINDS}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.sampled_from(
    ["", " ", "12 345\r\n\n", "<s> and </s>", "日本🙂é e\u0301", folders.PROSE[:2000]]
)


def joined(found: TokenizedDocument) -> str:
    """Join the characters of all tokens, each once."""
    text, end = "", 0
    for start, stop in zip(found.starts.tolist(), found.stops.tolist(), strict=True):
        if start < stop:
            assert start <= end <= stop, "a gap"
            text += found.document.text[max(start, end) : stop]
            end = stop
    return text


def check(text: str, tokenizer: Any) -> None:
    found = tokenized(Document("a.txt", text), tokenizer)
    assert joined(found) == text
    assert found.ids.tolist() == tokenizer(text, verbose=False).input_ids
    assert (found.ids.dtype, found.starts.dtype, found.stops.dtype) == (
        torch.int64, torch.int32, torch.int32,
    )  # fmt: skip
    assert found.ids.shape == found.starts.shape == found.stops.shape
    assert found.starts.is_contiguous()


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXTS)
def test_the_characters_of_all_tokens_are_the_text(kind: str, text: str) -> None:
    check(text, TOKENIZERS[kind])


def test_a_token_has_the_characters_that_it_stands_for() -> None:
    tokenizer = TOKENIZERS["llama"]
    document = Document("a.txt", "A captain of 12")
    found = tokenized(document, tokenizer)
    spans = list(zip(found.starts.tolist(), found.stops.tolist(), strict=True))
    assert spans[0] == (0, 0)  # the token that starts a text
    for token, (start, stop) in zip(found.ids[2:].tolist(), spans[2:], strict=True):
        shown = str(tokenizer.decode([1, token]))[3:]
        assert shown.strip() == document.text[start:stop].strip()


def test_a_long_text_gives_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    found = tokenized(Document("a.txt", folders.PROSE), folders.tokenizer(model_max_length=8))
    assert len(found.ids) > 8
    assert not caplog.records


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(InputError, match=r"Slow does not know .* load a fast tokenizer"):
        tokenized(Document("a.txt", "text"), Slow())


@pytest.mark.thorough
def test_the_shipped_tokenizer() -> None:
    try:
        tokenizer = load_model("smollm2")[1]
    except InputError as error:
        pytest.skip(str(error))  # names the command that installs it

    @given(text=st.text(st.characters(exclude_categories=["C"])))  # of which it lacks some
    def check_all(text: str) -> None:
        check(text, tokenizer)

    check_all()
    check(folders.PROSE, tokenizer)
