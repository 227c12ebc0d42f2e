"""What the site makes of links, parts of the README and sections of programs."""

import importlib
import sys
from pathlib import Path, PurePosixPath

import pytest

pytest.importorskip("mkdocs")

ROOT = Path(__file__).parent.parent.parent
NAMES = ("docstrings", "links", "programs", "readme")


@pytest.fixture
def tools(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "tools"))
    yield {name: importlib.import_module(name) for name in NAMES}
    for name in NAMES:
        del sys.modules[name]


@pytest.fixture
def site(tools, tmp_path):
    """A small repository, and the site of its docs."""
    for name in ("docs/guides/a.md", "docs/b.md", "code/c.py", "CHANGELOG.md", "README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    return tools["links"].Site(tmp_path, PurePosixPath("docs"))


@pytest.mark.parametrize(
    "page, written, shown",
    [
        ("b.md", "[c](../code/c.py)", "[c](source/code/c.py.md)"),
        ("guides/a.md", "[c](../../code/c.py)", "[c](../source/code/c.py.md)"),
        ("guides/a.md", "[c](../../code)", "[c](../source/code/index.md)"),
        ("b.md", "[log](../CHANGELOG.md#added)", "[log](changelog.md#added)"),
        ("guides/a.md", "[start](../../README.md)", "[start](../index.md)"),
        # Between pages nothing changes, and what is not there is left to mkdocs to complain of.
        ("guides/a.md", "[b](../b.md#x)", "[b](../b.md#x)"),
        ("b.md", "[none](../none.py)", "[none](../none.py)"),
        ("b.md", "[web](https://example.org/c.py)", "[web](https://example.org/c.py)"),
        ("b.md", "```\n[c](../code/c.py)\n```", "```\n[c](../code/c.py)\n```"),
    ],
)
def test_links(site, page, written, shown):
    assert site.with_links(written, page) == shown


def test_a_part_of_the_readme(tools, tmp_path):
    text = "# T\n\n## One\n\nSee [b](docs/b.md), [c](code/c.py).\n\n### Inner\n\n"
    text += "```\n# a comment\n```\n\n## Two\n\ntext\n"
    (tmp_path / "README.md").write_text(text)
    with_sections = tools["readme"].with_sections
    assert with_sections(tmp_path, "a\n<!-- README: One -->\nb") == (
        "a\nSee [b](b.md), [c](../code/c.py).\n\n### Inner\n\n```\n# a comment\n```\nb"
    )
    with pytest.raises(ValueError, match=r"README\.md has no part 'Three'"):
        with_sections(tmp_path, "<!-- README: Three -->")


def test_a_section_of_a_program(tools, tmp_path):
    (tmp_path / "p.py").write_text("import x\n\n\n# --- one ---\na = 1\n\n# --- two ---\nb = 2\n")
    with_programs = tools["programs"].with_programs
    assert with_programs(tmp_path, "<!-- Title: p.py one -->") == (
        '```python title="Title"\na = 1\n```'
    )
    with pytest.raises(ValueError, match=r"p\.py has no section 'three'"):
        with_programs(tmp_path, "<!-- Title: p.py three -->")


def test_docstrings(tools):
    griffe = pytest.importorskip("griffe")
    text = 'Reads m["a"]["b"] and `m["c"]["d"]`:\n\n>>> f(1)\n2\n\nMore.'
    function = griffe.Function("f", docstring=griffe.Docstring(text))
    tools["docstrings"].PlainText().on_object(obj=function)
    assert function.docstring.value == (
        'Reads m["a"]\\["b"] and `m["c"]["d"]`:\n\n```pycon\n>>> f(1)\n2\n```\n\nMore.'
    )
