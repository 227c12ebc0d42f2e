"""Every public name has a place in the reference."""

import importlib
import re
import sys
import types
from pathlib import Path

import pytest

import metagrad

DOCS = Path(__file__).parent.parent.parent / "docs"
REFERENCE = DOCS / "reference"

PAGES = "\n".join(page.read_text(encoding="utf-8") for page in REFERENCE.glob("*.md"))
LINES = re.findall(r"^::: (\S+)", PAGES, re.MULTILINE)


@pytest.fixture
def tools(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "tools"))
    yield importlib.import_module("public_names")
    del sys.modules["public_names"]


@pytest.mark.parametrize("name", metagrad.__all__)
def test_a_public_name_is_in_the_reference(name):
    assert LINES.count(f"metagrad.{name}") == 1, (
        f"write `::: metagrad.{name}` into a page of docs/reference"
    )


@pytest.mark.parametrize("name", metagrad._MODULES)
def test_a_public_module_is_in_the_reference(name):
    assert PAGES.count(f"<!-- names of metagrad.{name} -->") == 1


def test_the_reference_has_no_other_names():
    assert {*LINES} <= {f"metagrad.{name}" for name in metagrad.__all__}


def test_every_page_of_the_reference_is_named_at_its_start():
    start = (REFERENCE / "index.md").read_text(encoding="utf-8")
    for page in REFERENCE.glob("*.md"):
        assert page.name == "index.md" or f"({page.name})" in start


def test_names_of_a_module(tools, monkeypatch):
    """Those of `__all__`, or what it defines; and those of its submodules behind them."""
    place, inner = types.ModuleType("metagrad.place"), types.ModuleType("metagrad.place.inner")
    place.__all__ = ["inner", "function"]
    place.function = place.hidden = lambda: None
    inner.own = lambda: None
    inner.own.__module__ = "metagrad.place.inner"
    inner.imported, inner._private = test_names_of_a_module, inner.own
    place.inner = inner
    monkeypatch.setitem(sys.modules, "metagrad.place", place)
    monkeypatch.setitem(sys.modules, "metagrad.place.inner", inner)
    assert tools.names_in("metagrad.place") == [
        "metagrad.place.function",
        "metagrad.place.inner.own",
    ]
    lines = tools.with_names("# Title\n\n<!-- names of metagrad.place -->\n")
    assert re.findall("::: (.*)", lines) == [
        "metagrad.place.function",
        "metagrad.place.inner",
        "metagrad.place.inner.own",
    ]
