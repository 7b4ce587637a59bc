"""Readers beside a writer, in threads and processes."""

from pathlib import Path

import pytest

from tests import beside
from tests.tiny import one_thread  # noqa: F401 - a fixture


@pytest.mark.thorough
def test_readers_beside_a_writer_answer_for_the_commit_that_they_show(tmp_path: Path) -> None:
    """Some hundred changes; ``python -c`` with `beside.run` makes as many as one likes."""
    assert beside.run(tmp_path / "memory", changes=120) > 20
