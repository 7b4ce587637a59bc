"""The command `fotmem select`, and the file that it writes."""

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

import fotmem
from fotmem.cli.select import _show
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.errors import InputError, OptionError
from fotmem.measure.select import selector
from fotmem.measure.select.choice import Candidate, Selection
from fotmem.measure.select.limits import Limits, Prediction
from fotmem.measure.setting import Setting
from tests import folders, tiny
from tests.clock import no_time_passes  # noqa: F401 - a fixture
from tests.commands import call, refusal
from tests.tiny import one_thread  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("no_time_passes")


def test_the_choice_is_written_and_attached(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    file = tmp_path / "fotmem.toml"
    predicted = Prediction(ram=4e9, disk=0, latency=5e-3, error=0.03, recall=0.95)
    setting = Setting(store="faiss-ivf", options={"nprobe": 7})
    chosen = Candidate(setting, predicted, (), (17,), 2**15)
    Selection(2**20, 2**15, (17,), 32, Limits(), (chosen,), {}, {}).write(file)
    written = tomllib.loads(file.read_text())
    assert written["memory"] == {"store": "faiss-ivf", "options": {"nprobe": 7}}
    known = {name: value for name, value in predicted._asdict().items() if value is not None}
    assert written["predicted"] == {"tokens": 2**20, "top_k": 32, **known}
    model = tiny.llama()
    with fotmem.attach(model, config=file, layers=[1, 3], window=16) as memory:
        for store in memory.stores.values():
            assert type(store).__name__ == "IvfStore"
            assert store.options.nprobe == 7  # type: ignore[attr-defined]
    for given in ({"store": "exact"}, {"nprobe": 3}):
        with pytest.raises(OptionError, match=f"got also {next(iter(given))}"):
            fotmem.attach(model, config=file, layers=[1, 3], window=16, **given)


def test_attention_to_all_keys_is_written_and_attached(tmp_path: Path) -> None:
    file = tmp_path / "fotmem.toml"
    predicted = Prediction(4e9, 0, 5e-3, error=0.03, recall=1.0, estimated_error=0.05)
    setting = Setting(store="clusters", options={"target_error": 0.1})
    chosen = Candidate(setting, predicted, (), (17,), 2**15)
    Selection(2**20, 2**15, (17,), None, Limits(), (chosen,), {}, {}).write(file)
    written = tomllib.loads(file.read_text())
    assert written["memory"]["top_k"] == "all"
    assert written["predicted"] == {"tokens": 2**20, **predicted._asdict()}
    model = tiny.llama()
    with fotmem.attach(model, config=file, layers=[1, 3], window=16) as memory:
        assert memory.top_k is None
        assert {type(store).__name__ for store in memory.stores.values()} == {"ClustersStore"}


@pytest.mark.parametrize(
    ("store", "tokens", "top_k", "hinted"),
    [
        ("clusters", 65_536, 32, True),
        ("clusters", 65_535, 32, False),
        ("exact", 2**20, 32, False),
        ("clusters", 2**20, None, False),
    ],
)
def test_all_keys_are_proposed_for_large_memories(
    store: str, tokens: int, top_k: int | None, hinted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    predicted = Prediction(ram=4e9, disk=0, latency=5e-3, error=0.03, recall=0.95)
    chosen = Candidate(Setting(store=store), predicted, (), (17,), 2**15)
    _show(Selection(tokens, 2**15, (17,), top_k, Limits(), (chosen,), {}, {}))
    out = capsys.readouterr().out
    assert ("try --top-k all (clusters)" in out) == hinted
    assert out.splitlines()[-1] == f"{store}: it is the only one that fits"
    assert ("estimated error" in out) == (top_k is None)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[memory", "is not TOML"),
        ("[memory]\n", "memory.store: Field required"),
        ("[memory]\nstore = 'exact'\ntop = 3\n", "memory.top: Extra inputs"),
        ("[memory]\nstore = 'exact'\n[other]\n", "other: Extra inputs"),
        ("", "memory: Field required"),
    ],
)
def test_a_file_that_is_something_else_is_named(content: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "fotmem.toml"
    file.write_text(content)
    with pytest.raises(InputError, match=reason):
        fotmem.attach(tiny.llama(), config=file)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        fotmem.attach(tiny.llama(), config=tmp_path / "none.toml")


@pytest.mark.thorough
def test_the_next_commands_of_a_kept_memory_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(selector, "CAPTURED", 1000)
    folder, out = folders.write(tmp_path / "model", chat=True), tmp_path / "my fotmem.toml"
    text = tmp_path / "text.txt"
    text.write_text(folders.PROSE * (8000 // len(folders.PROSE) + 1))
    words = ["select", folder, "--tokens", "1k", "--stores", "exact", "--text", text]
    words += ["--window", 48, "--layers", "1,2", "--persistent"]
    ended = call(capsys, *words, "--out", out)
    assert ended.code == 0
    assert "RAM: of an open memory" in ended.out
    assert "disk: size of the memory's directory" in ended.out
    last = ended.out.splitlines()[-1]
    assert last.startswith("next: fotmem read ")
    for name, value in {"FILE": text, "DIR": tmp_path / "kept", "QUESTION": "Who?"}.items():
        last = re.sub(rf"\b{name}\b", shlex.quote(str(value)), last)
    read, ask = last.removeprefix("next: ").split(" && ")
    assert call(capsys, *shlex.split(read)[1:]).code == 0
    ended = call(capsys, *shlex.split(ask)[1:], "--max-new-tokens=2", "--json")
    assert json.loads(ended.out)["tokens"] > 1000
    kept = MemoryDirectory.open(tmp_path / "kept").manifest
    assert [layer.layer for layer in kept.layers] == [1, 2]
    assert kept.facts.window == 48


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(selector, "CAPTURED", 9000)
    monkeypatch.setattr(selector, "SECONDS", 5.0)
    folder = folders.write(tmp_path / "model")
    text = tmp_path / "text.txt"
    text.write_text(folders.PROSE * (60_000 // len(folders.PROSE) + 1))
    out = tmp_path / "fotmem.toml"
    words = ["select", folder, "--tokens", "16k", "--stores", "exact", "--text", text]
    words += ["--window", 48, "--out", out]
    ended = call(capsys, *words, "--json")
    assert ended.code == 0
    found = json.loads(ended.out)
    assert found["choice"]["store"] == "exact"
    assert found["limits"]["max_error"] == 0.05
    assert tomllib.loads(out.read_text())["memory"] == {"store": "exact"}
    [kept] = (tmp_path / "cache/fotmem/captures").iterdir()
    before = {file: file.stat().st_mtime_ns for file in kept.rglob("*") if file.is_file()}
    ended = call(capsys, *words, "--ram", "1B", "--latency", "1s")
    assert ended.code == 3
    assert "no store fits: with --ram" in ended.out
    for name in ("RAM, disk", "latency", "excess error", "recall"):
        assert f"\n{name}: " in ended.out
    after = {file: file.stat().st_mtime_ns for file in kept.rglob("*") if file.is_file()}
    assert {f: t for f, t in after.items() if "zarr.json" not in f.name} == {
        f: t for f, t in before.items() if "zarr.json" not in f.name
    }
    line = refusal(capsys, 2, *words, "--latency", "soon")
    assert "expected a time such as 20ms, got 'soon'" in line


def test_asking_with_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, file = folders.write(tmp_path / "model", chat=True), tmp_path / "fotmem.toml"
    (tmp_path / "one.txt").write_text(folders.PROSE[:600])
    words = ["ask", folder, "Who?", "--text", tmp_path / "one.txt", "--window", 32]
    words += ["--max-new-tokens", 4, "--json"]
    file.write_text('[memory]\nstore = "zarr"\n[memory.options]\nram = "8MiB"\n')
    asked = call(capsys, *words, "--config", file)
    assert json.loads(asked.out)["answer"] == json.loads(call(capsys, *words).out)["answer"]
    for more in (["--store", "exact"], ["--option", "ram=8MiB"]):
        line = refusal(capsys, 2, *words, "--config", file, *more)
        assert f"it names the store, so {more[0]} is not allowed" in line
    file.write_text('[memory]\nstore = "zarr"\n[memory.options]\nrum = "8MiB"\n')
    assert "did you mean 'ram'" in refusal(capsys, 1, *words, "--config", file)


def test_a_file_sets_defaults_of_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, file = folders.write(tmp_path / "model", chat=True), tmp_path / "fotmem.toml"
    (tmp_path / "one.txt").write_text(folders.PROSE[:600])
    file.write_text(
        '[memory]\nstore = "exact"\nlayers = [0, 2]\ntop_k = "all"\nwindow = 40\n'
        'distance = 3\ndecay = 0.5\ntemperature = 2\ndtype = "bfloat16"\n'
    )
    memories: list[Any] = []

    def attach(*args: Any, **options: Any) -> Any:
        memories.append(fotmem.attach(*args, **options))
        return memories[-1]

    monkeypatch.setattr("fotmem.memory.attachment.attach", attach)
    words = ["ask", folder, "Who?", "--text", tmp_path / "one.txt", "--max-new-tokens", 2]
    for more in ([], ["--layers", "1", "--top-k", "9", "--window", 32, "--decay", "0"]):
        assert call(capsys, *words, "--config", file, *more).code == 0
    first, second = memories
    assert (first.layers, first.top_k, first.options.window) == ((0, 2), None, 40)
    assert (first.distance, first.decay, first.temperature, first.store(0).dtype) == (
        3,
        0.5,
        2,
        torch.bfloat16,
    )
    assert (second.layers, second.top_k, second.options.window) == ((1,), 9, 32)
    assert (second.distance, second.decay, second.temperature) == (3, 0, 2)
    file.write_text('[memory]\nstore = "exact"\nwindows = 3\n')
    assert "did you mean 'window'?" in refusal(capsys, 1, *words, "--config", file)
