"""The command line: help, and the stores that it lists."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch

import fotmem
from fotmem.models.packaged import packaged_names
from tests.commands import call, refusal
from tests.tiny import one_thread  # noqa: F401 - a fixture

EXACT = {"name": "exact", "plugin": "fotmem_exact", "available": True, "reason": ""}
BUILT_IN = (
    "clusters",
    "exact",
    "faiss-flat",
    "faiss-ivf",
    "faiss-ivfpq",
    "faiss-hnsw",
    "hnsw",
    "zarr",
)
COMMANDS = {
    "": "demo",
    "stores": "stores --json",
    "models": "models --json",
    "demo": "demo --store exact",
    "ask": 'ask smollm2 --text book.txt "Who is the captain?"',
    "eval": "eval passkey smollm2 --tokens 4096 --text book.txt",
    "eval passkey": "eval passkey smollm2 --tokens 4096 --text book.txt",
    "eval facts": "eval facts smollm2 --tokens 16k --text book.txt",
    "eval ruler": "eval ruler smollm2 --tokens 4k,16k --text book.txt",
    "eval questions": "eval questions smollm2 --text book.txt --questions book.jsonl",
    "eval perplexity": "eval perplexity smollm2 --tokens 4k,16k --text book.txt",
    "layers": "layers smollm2",
    "capture": "capture smollm2 --text book.txt --tokens 64k --out DIR",
    "capture-arrays": "capture-arrays --keys keys.npy --queries queries.npy --out DIR",
    "capture-random": "capture-random --tokens 64k --mismatch 0.5 --out DIR",
    "bench": "bench CAPTURE --stores exact,faiss-ivf",
    "bench run": "bench CAPTURE --stores exact,faiss-ivf",
    "bench compare": "bench compare before after",
    "plugin": "plugin check exact",
    "plugin check": "plugin check hnsw --option ef_search=128",
    "train": "train smollm2 --data book.txt --output tuned --steps 100",
}


# Help


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    ended = call(capsys, *command.split(), flag)
    assert (ended.code, ended.err) == (0, "")
    assert f"Usage: fotmem {command}".rstrip() in ended.out
    assert f"Example: fotmem {COMMANDS[command]} " in ended.out


@pytest.mark.parametrize("command", ["", "eval", "plugin"])
def test_a_group_alone_shows_its_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    ended = call(capsys, *command.split())
    assert (ended.code, ended.err) == (2, "")
    assert ended.out.rstrip() == call(capsys, *command.split(), "--help").out.rstrip()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "--version") == (0, f"fotmem {fotmem.__version__}\n", "")


def test_help_names_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    out = call(capsys, "ask", "--help").out
    for word in ("MODEL", "QUESTION", "FILE", "smollm2", "--json", "[default: 40]", "[x>=2]"):
        assert word in out


@pytest.mark.parametrize(
    "command", ["ask", "layers", "capture", "select", "train", "eval passkey", "eval dictionary"]
)
def test_help_names_the_packaged_models(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    [line] = re.findall(r"\*.*\bMODEL\b(.*)", call(capsys, *command.split(), "--help").out)
    fits = [name for name in packaged_names() if (name == "dictionary-fot") == ("dict" in command)]
    assert set(re.findall(r"[a-z0-9]+-fot|smollm2", line)) == set(fits)


# Stores


def test_stores_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    ended = call(capsys, "stores", "--json")
    assert (ended.code, ended.err) == (0, "")
    found = json.loads(ended.out)
    assert found["problems"] == []
    assert EXACT in found["stores"]
    assert [row["name"] for row in found["stores"]] == list(BUILT_IN)


def test_stores_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    ended = call(capsys, "stores")
    assert (ended.code, ended.err) == (0, "")
    assert "problem" not in ended.out
    [row] = [line for line in ended.out.splitlines() if "fotmem_exact" in line]
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "exact",
        "fotmem_exact",
        "yes",
        "no",
        "cpu, cuda",
        "yes",
    ]


@pytest.mark.parametrize("gpu", [True, False])
def test_stores_says_whether_faiss_searches_on_the_gpu(
    gpu: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    faiss = pytest.importorskip("faiss")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: int(gpu), raising=False)
    out = " ".join(call(capsys, "stores").out.replace("│", " ").split())
    assert ("on the GPU" in out) == gpu
    assert ("pip uninstall faiss-cpu" in out) != gpu


def test_the_message_about_a_missing_library_has_a_cure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "hnswlib", None)
    [row] = [
        row
        for row in json.loads(call(capsys, "stores", "--json").out)["stores"]
        if row["name"] == "hnsw"
    ]
    assert not row["available"]
    assert row["reason"] == "needs hnswlib, not installed: pip install 'fotmem[hnsw]'"


def test_a_broken_plugin_is_reported_and_the_others_work(
    plugins: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = call(capsys, "stores", "--json")
    assert (ended.code, ended.err) == (0, "")
    reason = "needs not_there, not installed: pip it[all]"
    found = json.loads(ended.out)
    built_in = found["stores"][: len(BUILT_IN)]
    assert EXACT in built_in
    assert found == {
        "stores": [
            *built_in,
            {"name": "good-store", "plugin": "good", "available": True, "reason": ""},
            {"name": "absent", "plugin": "poor", "available": False, "reason": reason},
        ],
        "problems": [
            {
                "plugin": "broken",
                "reason": "cannot be loaded: RuntimeError: [bold]boom[/bold], twice",
            }
        ],
    }


def test_a_broken_plugin_is_reported_below_the_table(
    plugins: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    ended = call(capsys, "stores")
    assert (ended.code, ended.err) == (0, "")
    assert "needs not_there, not installed: pip it[all]" in ended.out
    assert ended.out.splitlines()[-1] == (
        "problem in plugin broken: cannot be loaded: RuntimeError: [bold]boom[/bold], twice"
    )


def test_a_store_whose_package_is_missing_says_how_to_get_it(
    plugins: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("A captain.", encoding="utf-8")
    line = refusal(capsys, 1, "ask", "any", "Q", "--text", text, "--store", "absent")
    assert line == "'absent' is not available here: needs not_there, not installed: pip it[all]"
