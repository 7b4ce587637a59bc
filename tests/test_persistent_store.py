"""The page "A store that outlives the process" shows the example, file by file."""

from tests.pages import ROOT, blocks

PAGE = ROOT / "docs" / "persistent-store.md"
EXAMPLE = ROOT / "examples" / "fotmem-safetensors"


def test_the_page_shows_the_example() -> None:
    files = {block.title: block.code for block in blocks(PAGE) if block.title}
    project = files.pop("pyproject.toml")
    files["tests/test_safetensors.py"] = files.pop("test_safetensors.py")
    for title, code in files.items():
        assert code == (EXAMPLE / title).read_text("utf-8"), title
    assert (EXAMPLE / "pyproject.toml").read_text("utf-8").startswith(project)


def test_all_that_the_example_holds_besides_is_its_own_settings() -> None:
    shown = {block.title for block in blocks(PAGE)}
    sources = {path.relative_to(EXAMPLE).as_posix() for path in EXAMPLE.rglob("*.py")}
    assert sources - shown == {"fotmem_safetensors/__init__.py", "tests/test_safetensors.py"}
