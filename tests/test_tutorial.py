"""The tutorial's commands, as they stand on its page, with a tiny model in SmolLM2's place."""

import random
import re
import shlex
from pathlib import Path

import pytest

from tests import folders
from tests.commands import call
from tests.pages import ROOT, blocks
from tests.tiny import one_thread  # noqa: F401 - a fixture

WORDS = "captain sailed island pass key What number Remember the of is it locker code 48213 ship"


@pytest.mark.thorough
def test_the_commands_of_the_tutorial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folders.write(tmp_path / "smollm2", max_position_embeddings=512)
    for seed, name in enumerate(("book.txt", "other.txt")):
        draw = random.Random(seed)
        (tmp_path / name).write_text(" ".join(draw.choices(WORDS.split(), k=9000)))
    page = ROOT / "docs" / "training.md"
    lines = [
        line.removeprefix("$ ")
        for block in blocks(page)
        if block.language == "console" and not block.left_out
        for line in block.code.splitlines()
    ]
    programs = [shlex.split(line)[:3] for line in lines]
    assert [words[1] for words in programs] == ["layers", "train", "ask", "eval", "eval", "eval"]
    for line in lines:
        small = line.replace("smollm2", "./smollm2").replace("512,2k", "128,256")
        small = re.sub("--layers [0-9,]+ --layers-below 1", "--steps 4 --windows 2", small)
        ended = call(capsys, *shlex.split(small)[1:])
        assert (ended.code, bool(ended.out)) == (0, True), (line, ended.err)
    assert (tmp_path / "tuned" / "losses.png").is_file()
