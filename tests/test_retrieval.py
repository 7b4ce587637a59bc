"""Which layers retrieve: measured, proposed, kept and used."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import fotmem
from fotmem.measure.retrieval_heads import propose
from fotmem.models.memory_layers import LayerScores, store_proposal, stored_proposal
from fotmem.models.model_parts import model_parts
from tests import folders, tiny
from tests.commands import call
from tests.tiny import one_thread  # noqa: F401 - a fixture


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_proposed_are_layers_near_the_best() -> None:
    assert propose([0.0, 0.1, 0.05, 0.021, 0.023]) == [1, 2, 4]
    with pytest.raises(fotmem.errors.InputError, match="no layer of this model retrieves anything"):
        propose([0.0, 0.0])


def test_a_models_scores() -> None:
    model = folders.model(max_position_embeddings=1024)
    names = ("cache", "past_key_values")
    before = {name: getattr(model.config, name, None) for name in (*names, "_attn_implementation")}
    found = fotmem.find_memory_layers(model, folders.tokenizer(), trials=3)
    again = fotmem.find_memory_layers(model, folders.tokenizer(), trials=3)
    assert found == again
    assert len(found.scores) == 4
    assert all(0 < score < 0.1 for score in found.scores)  # a random model attends evenly
    assert found.memory_layers == propose(found.scores)
    assert {name: getattr(model.config, name, None) for name in before} == before


def test_a_layer_that_attends_to_the_next_token_scores_highest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Let one layer's attention go to the right digits, by what it is given to look at."""
    model = folders.model(max_position_embeddings=1024)
    plain = model.forward

    def forward(input_ids: torch.Tensor, **kwargs: Any) -> Any:
        output = plain(input_ids, **kwargs)
        if kwargs.get("output_attentions"):
            seen.append(input_ids[0].tolist())
            attention = output.attentions[2]
            text = texts[-1] + seen[-1]
            for place in range(len(seen[-1])):
                following = seen[-1][place + 1 : place + 2]
                if following:  # the first time this token stands after the one before it
                    pair = (text[len(texts[-1]) + place], following[0])
                    ends = [i for i in range(1, len(text)) if (text[i - 1], text[i]) == pair]
                    attention[0, :, place] = 0
                    attention[0, :, place, ends[0]] = 1
        else:
            texts.append(input_ids[0].tolist())
        return output

    texts: list[list[int]] = []
    seen: list[list[int]] = []
    monkeypatch.setattr(model, "forward", forward)
    found = fotmem.find_memory_layers(model, folders.tokenizer(), trials=4)
    assert found.scores[2] == max(found.scores)
    assert found.scores[2] > 0.3
    assert found.memory_layers == [2]


@pytest.mark.parametrize("text", ["Too short.", ""])
def test_a_text_that_is_too_short(text: str) -> None:
    with pytest.raises(fotmem.errors.InputError, match="tokens, 448 are needed: add text"):
        fotmem.find_memory_layers(folders.model(), folders.tokenizer(), text=text)


def test_a_proposal_is_used_where_nothing_else_is_known() -> None:
    model, other = tiny.llama(), tiny.llama(num_key_value_heads=4)
    with pytest.raises(fotmem.errors.LayerError, match="`fotmem layers MODEL` has not been run"):
        fotmem.attach(model)
    scores = LayerScores([0.0, 0.1, 0.2, 0.0], [1, 2])
    file = store_proposal(model_parts(model), scores)
    assert stored_proposal(model_parts(model)) == scores
    with fotmem.attach(model) as memory:
        assert memory.layers == (1, 2)
    with fotmem.attach(model, layers=[3]) as memory:
        assert memory.layers == (3,)
    with pytest.raises(fotmem.errors.LayerError):
        fotmem.attach(other)
    model.config.mem_layers = [0]
    with fotmem.attach(model) as memory:
        assert memory.layers == (0,)
    del model.config.mem_layers
    file.write_text("{")
    with pytest.raises(fotmem.errors.LayerError):
        fotmem.attach(model)


def test_the_command(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folders.write(tmp_path / "model", max_position_embeddings=1024)
    shown = call(capsys, "layers", folder, "--trials", 2)
    assert shown.code == 0, shown.err
    assert "proposed memory layers: " in shown.out
    assert "the config of this model names other memory layers: [1, 3]" in shown.out
    found = json.loads(call(capsys, "layers", folder, "--trials", 2, "--json").out)
    assert list(found) == ["scores", "memory_layers"]
    [file] = (cache / "fotmem" / "layers").iterdir()
    assert json.loads(file.read_text()) == found
