"""The report of `clusters` against `exact`: one reading, the same questions, paired answers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fotmem.measure.evaluate.dictionary import DictionaryRow
from fotmem.measure.evaluate.report import report, write_report
from fotmem.measure.reading import OVERLAP
from recipes import answers_report
from recipes.answers import AFTER_KEY, LONG, Answer, facts, pass_keys, perplexities
from recipes.answers_report import MARKER, PAGE, Run
from recipes.answers_tables import ALL, BEST, CLUSTERS, NONE, CaseAnswers, paired, read, tables
from recipes.read_text import NEW, Changed, ReadText
from tests import folders, tiny
from tests.tiny import one_thread  # noqa: F401 - a fixture

TOKENS = 3 * NEW


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> ReadText:
    """A text that a tiny model has read."""
    folder = tmp_path_factory.mktemp("answers")
    (folder / "text.txt").write_text(folders.PROSE[:9000])
    tokenizer = folders.tokenizer()
    model = tiny.llama(max_position_embeddings=1024, vocab_size=len(tokenizer))
    model.config.mem_layers = list(tiny.LAYERS)
    return ReadText(model, tokenizer, folder / "text.txt", folder / "read", TOKENS)


def test_a_changed_window_stands_between_the_tokens_around_it(text: ReadText) -> None:
    assert len(text) == TOKENS
    new = [5, 6, 7] * 40
    contents = text.put("exact", None)
    text.add(contents, range(TOKENS), [Changed(range(100, 300), new)])
    assert contents.tokens.tolist() == text.ids[:100] + new + text.ids[300:TOKENS]
    read_alone = text.ids[100 - OVERLAP : 100] + new
    [alone] = text.memory.observe(read_alone)
    for layer, store in contents.stores.items():
        ids = torch.arange(100, 100 + len(new)).expand(store.num_heads, 1, -1)
        assert torch.allclose(store.keys(ids)[:, 0], alone[layer].keys[:, OVERLAP:], atol=1e-5)


def test_all_settings_get_the_same_questions_once(
    text: ReadText, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So few keys are all compared by `clusters`."""
    monkeypatch.setattr("recipes.answers.SCORED", 1024)
    file = tmp_path / "text.jsonl"
    made = [*pass_keys(text, TOKENS, 2), *perplexities(text, 300, 1)]
    assert [len(case.ask()) for case in made] == [1, 1, 2]
    for _ in range(2):
        run = Run(text, file)
        for case in made:
            run.measure(case)
    found = read(file)
    assert len(found) == 4 * len(made)
    for case in made:
        by_setting = {each.setting: each.answers for each in found if each[:3] == case[:3]}
        losses = {one: [each.loss for each in some] for one, some in by_setting.items()}
        assert losses[CLUSTERS] == pytest.approx(losses[ALL], abs=1e-3)
        assert losses[NONE] != pytest.approx(losses[ALL], abs=1e-3)


def test_where_numbers_stand(text: ReadText) -> None:
    """In a long memory behind what all trials share, and before what is young."""
    [first, second] = pass_keys(text, LONG, 2)
    assert first.before == second.before
    assert LONG - AFTER_KEY - NEW < len(first.before) <= LONG - AFTER_KEY
    [short] = pass_keys(text, TOKENS, 1)
    assert short.before == range(0)
    [hidden] = facts(text, 64 * NEW, 1)
    assert len(hidden.fill.keywords["changes"]) == 32  # type: ignore[attr-defined]


def found(task: str, setting: Any, number: int, *losses: float) -> CaseAnswers:
    return CaseAnswers(task, 16_384, number, setting, [Answer(loss, loss < 1) for loss in losses])


def test_answers_are_paired_where_all_settings_have_them() -> None:
    every = [found("pass key", one, 1, 0.5) for one in (CLUSTERS, ALL, BEST, NONE)]
    every += [found("pass key", one, 0, 2.0) for one in (NONE, BEST, ALL, CLUSTERS)]
    together = paired([*every, found("pass key", ALL, 2, 7.0)])
    assert together[ALL] == together[CLUSTERS] == [Answer(2.0, False), Answer(0.5, True)]
    assert paired(every[:3]) == {}


def test_the_tables(tmp_path: Path) -> None:
    shares = {NONE: 3.0, BEST: 2.925, ALL: 2.9, CLUSTERS: 2.904}
    asked = {NONE: 9.0, BEST: 0.5, ALL: 0.5, CLUSTERS: 0.75}
    lines = [found("perplexity", one, 0, loss, loss) for one, loss in shares.items()]
    lines += [found("facts", one, 0, loss, loss) for one, loss in asked.items()]
    (tmp_path / "book.jsonl").write_text(
        "".join(json.dumps(each._asdict()) + "\n" for each in lines)
    )
    row = DictionaryRow(
        tokens=262_140,
        store="clusters",
        exact_match=0.9,
        exact_match_interval=(0.8, 1.0),
        symbol_accuracy=0.97,
        queries=500,
        tokens_per_second=1e4,
        bytes_per_token=256,
        seconds_per_query=0.01,
    )
    write_report(tmp_path / "dictionary.json", report("dictionary", {}, [row]))
    written = tables(tmp_path)
    gain, top, ours = "0.100 (0.100 to 0.100)", "75% (75% to 75%)", "96% (96% to 96%)"
    assert f"| book | 16,384 | 2 | 3.000 | {gain} | {top} | {ours} |\n" in written
    change = "0.250 (0.250 to 0.250)"
    assert f"| book | facts | 16,384 | 2 | 0 | 2 | 2 | 2 | {change} |\n" in written
    right = "1.000 (0.992 to 1.000)"
    assert f"| 262,140 | {right} | {right} | 0.900 (0.800 to 1.000) |\n" in written
    assert PAGE.read_text(encoding="utf-8").count(MARKER) == 2
    assert answers_report.DICTIONARY.endswith("--top-k all")
