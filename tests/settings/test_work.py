"""Settings side by side: what is done once, what fails, and what is continued."""

import json
from pathlib import Path
from typing import Any

import pytest

import fotmem
from fotmem import Memory
from fotmem.measure.evaluate.passkey import PasskeyRow
from fotmem.measure.evaluate.report import TaskReport
from fotmem.measure.grid import Grid, settings
from tests.settings.sparse import GRID, passkeys
from tests.tiny import contents, one_thread  # noqa: F401 - a fixture


def test_a_text_is_read_once_and_stores_are_tuned(
    built: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    plain = Memory.read

    def counted(memory: Memory, ids: list[int], **options: Any) -> None:
        read.append(len(ids))
        plain(memory, ids, **options)

    monkeypatch.setattr(Memory, "read", counted)
    measured, _ = passkeys(settings(["exact", "sparse"], GRID), readings=2)
    assert len([length for length in read if length > 100]) == 2
    # Of each reading two trials, in which every salt is built once for each of two layers.
    assert built == [1, 1, 1, 1, 2, 2, 2, 2] * 2
    recall = {
        str(row.options): row.store_quality.recall.value
        for row in measured.rows
        if row.store_quality
    }
    assert len(recall) == 5
    for salt in (1, 2):
        assert recall[f"{{'salt': {salt}, 'every': 1}}"] == 1
        assert recall[f"{{'salt': {salt}, 'every': 3}}"] < 0.5


@pytest.mark.parametrize("attend", [False, True])
def test_the_memory_is_left_as_it_was(attend: bool, built: list[int]) -> None:
    _, memory = passkeys(settings(["sparse"], {"sparse": {"every": [3]}}), attend=attend)
    assert bool(len(memory)) != attend
    for layer in memory.layers:
        assert type(memory.store(layer)).__name__ == "ExactStore"
        assert type(memory.attached_model.new_store(layer)).__name__ == "ExactStore"
        assert len(memory.store(layer)) == len(memory)


def test_a_failing_setting_is_reported_and_others_continue(
    built: list[int], tmp_path: Path
) -> None:
    grid: Grid = {"sparse": {"salt": [1, 13], "every": [1, 13]}}
    file = tmp_path / "report.json"
    measured, memory = passkeys(settings(["absent", "sparse", "exact"], grid), file)
    reasons = [(each.store, each.options, each.reason) for each in measured.failures]
    assert reasons == [
        (
            "absent",
            {},
            "'absent' is not available here: needs not_there, not installed: pip install it",
        ),
        ("sparse", {"salt": 1, "every": 13}, "RuntimeError: no luck"),
        ("sparse", {"salt": 13, "every": 1}, "OSError: the disk is full"),
        ("sparse", {"salt": 13, "every": 13}, "OSError: the disk is full"),
    ]
    assert [row.store for row in measured.rows] == ["sparse", "exact"]
    report = json.loads(file.read_text())
    assert len(report["rows"]) == 2
    assert [each["tokens"] for each in report["failures"]] == [200] * 4
    again, _ = passkeys(settings(["absent", "sparse", "exact"], grid), file)
    assert again.failures == measured.failures  # tried again
    assert type(memory.store(1)).__name__ == "ExactStore"


def test_settings_with_a_row_are_not_measured_again(built: list[int], tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    with pytest.raises(KeyboardInterrupt):
        passkeys(settings(["exact", "sparse"], {"sparse": {"salt": [99]}}), file)
    first = json.loads(file.read_text())["rows"]
    assert [row["store"] for row in first] == ["exact"]
    every = settings(["exact", "sparse"], {"sparse": {"salt": [1, 2]}})
    measured, _ = passkeys(every, file)
    rows = json.loads(file.read_text())["rows"]
    assert rows[0] == first[0]
    assert [row["options"] for row in rows] == [{}, {"salt": 1}, {"salt": 2}]
    again, _ = passkeys(every, file)
    assert again.rows == measured.rows


def test_another_report_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    first = TaskReport("passkey", {"tokens": "4k", "seed": 0, "stores": "exact"}, PasskeyRow, file)
    first.add(PasskeyRow(False, 0.0, 0.0, (0.0, 1.0), 1, 1.0, tokens=4096, store=None))
    for task, options, reason in (
        ("passkey", {"tokens": "8k", "seed": 0}, "with tokens '4k', not '8k': name a new file"),
        ("passkey", {"tokens": "4k", "seed": 1}, "with seed 0, not 1: name a new file"),
        ("facts", {"tokens": "4k"}, "with task 'passkey', not 'facts'; seed 0, not None: name"),
    ):
        with pytest.raises(fotmem.errors.InputError, match=reason):
            TaskReport(task, options, PasskeyRow, file)
    inputs = {"text": "a", "model": "b"}
    for known, ours, reason in (
        ({}, inputs, "is a report of an earlier version, perhaps of another text and model: name"),
        (inputs, inputs | {"text": "c"}, "is the report of another text: name a new file"),
        (inputs, inputs | {"model": "c"}, "is the report of another model: name a new file"),
    ):
        file.write_text(json.dumps({"task": "facts", "options": {}, "rows": [], "inputs": known}))
        with pytest.raises(fotmem.errors.InputError, match=reason):
            TaskReport("facts", {}, PasskeyRow, file, ours)
        assert not TaskReport("facts", {}, PasskeyRow, file, known).rows
    for content, reason in (
        ("[", "is not a report of fotmem eval: Expecting value"),
        ("[]", "is not a report of fotmem eval: it has no task, options and rows"),
    ):
        file.write_text(content)
        with pytest.raises(fotmem.errors.InputError, match=reason):
            TaskReport("passkey", {}, PasskeyRow, file)
