"""`fotmem models` lists the families that can have memory."""

import json
from pathlib import Path

import pytest

from fotmem.plugin.registry import registry
from fotmem_decoders.families import FAMILIES
from tests.commands import call
from tests.plugins import hook, install

FAR = "AdapterSpec(name='far', architectures=('FarLM', 'Far2LM'), factory=dict, requires=('far',))"


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a plugin that cannot be imported, and one whose adapter needs a missing package."""
    install(tmp_path, "broken", "raise RuntimeError('boom')")
    install(tmp_path, "others", hook(f"[{FAR}]", "fotmem_adapters"))
    monkeypatch.syspath_prepend(tmp_path)
    registry.cache_clear()


def test_as_json(plugins: None, capsys: pytest.CaptureFixture[str]) -> None:
    ended = call(capsys, "models", "--json")
    assert (ended.code, ended.err) == (0, "")
    found = json.loads(ended.out)
    assert [problem["plugin"] for problem in found["problems"]] == ["broken"]
    *ours, far = found["models"]
    assert [row["name"] for row in ours] == list(FAMILIES)
    assert {
        "name": "llama",
        "architectures": ["LlamaForCausalLM"],
        "plugin": "fotmem_decoders",
        "available": True,
        "reason": "",
    } in ours
    assert far == {
        "name": "far",
        "architectures": ["FarLM", "Far2LM"],
        "plugin": "others",
        "available": False,
        "reason": "needs far, not installed: pip install far",
    }


def test_as_a_table(
    plugins: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    ended = call(capsys, "models")
    assert (ended.code, ended.err) == (0, "")
    assert "problem in plugin broken: cannot be loaded: RuntimeError: boom" in ended.out
    rows = [[cell.strip() for cell in row.split("│")[1:-1]] for row in ended.out.splitlines()]
    assert ["llama", "LlamaForCausalLM", "fotmem_decoders", "yes"] in rows
    cure = "needs far, not installed: pip install far"
    assert ["far", "FarLM, Far2LM", "others", cure] in rows
