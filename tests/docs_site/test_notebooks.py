"""The notebooks of docs/ run, and print what they were saved with."""

import sys
from pathlib import Path

import pytest
from page_programs import are_alike

DOCS = Path(__file__).parent.parent.parent / "docs"

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")


@pytest.fixture
def tools(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "tools"))
    import run_notebooks

    yield run_notebooks
    del sys.modules["run_notebooks"]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the packages of Jupyter
@pytest.mark.parametrize(
    "path", sorted((DOCS / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem
)
def test_a_notebook_prints_what_it_shows(tools, path):
    saved = tools.texts(nbformat.read(path, as_version=4))
    assert any("<picture>" in text for text in saved)
    for now, before in zip(tools.texts(tools.execute(path)), saved, strict=True):
        assert are_alike(now, before), f"it shows\n{before}\nand prints\n{now}"
