"""The site builds without warnings and without a network, and asks for nothing when it is read."""

import importlib
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

pytest.importorskip("mkdocs")
pytest.importorskip("mkdocstrings")
pytest.importorskip("material")

WITHOUT_NETWORK = """
import socket
def refuse(*_):
    raise OSError("the build asks for a network")
socket.socket.connect = socket.getaddrinfo = refuse
from mkdocs.__main__ import cli
cli()
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_NETWORK, "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Loads(HTMLParser):
    """What a browser fetches by itself to show a page."""

    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attributes):
        names = {"script": "src", "img": "src", "link": "href", "iframe": "src"}
        address = dict(attributes).get(names.get(tag, ""))
        if address and dict(attributes).get("rel") not in ("canonical", "next", "prev"):
            self.addresses.append(address)


def test_pages_load_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text(encoding="utf-8"))
        assert loads.addresses
        for address in loads.addresses:
            assert not re.match(r"(https?:)?//", address), (page, address)
            if page.name != "404.html" and not address.startswith(("data:", "/")):
                assert (page.parent / address.partition("?")[0]).exists(), (page, address)


def test_every_public_name_has_a_place(site, monkeypatch):
    """One without a docstring would be left out."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "tools"))
    names = importlib.import_module("public_names").public_names()
    del sys.modules["public_names"]
    pages = "".join(page.read_text() for page in (site / "reference").glob("*.html"))
    assert [name for name in names if f'id="{name}"' not in pages] == []


def test_a_page_of_a_source_file(site):
    text = (site / "source" / "frontend" / "capabilities" / "table.py.html").read_text()
    assert "frontend/capabilities/table.py" in text
    page = (site / "derivatives.html").read_text()
    assert 'href="source/frontend/capabilities/table.py.html"' in page


def test_parts_of_the_readme(site):
    start = (site / "index.html").read_text()
    assert "largest gradient at example 7" in start and "README:" not in start
    interface = (site / "interface.html").read_text()
    assert ">Long runs" in interface and "any schedule of the" in interface
    assert "metagrad <code>Auto</code> (the default)" in (site / "peers.html").read_text()


def test_no_markdown_is_left(site):
    """Blocks and tables that were not understood would stand in the text as they were written."""
    for page in site.rglob("*.html"):
        text = re.sub(r"<(pre|code|script)\b.*?</\1>", "", page.read_text(), flags=re.DOTALL)
        left = re.findall(r"```.*|<p>\|.*|\*\*.*", text)
        assert "source" in page.relative_to(site).parts or left == [], page


def test_notebooks_are_shown_with_their_results(site):
    page = (site / "notebooks" / "weights_of_examples.html").read_text()
    assert "without the first 50" in page and ".png" in page


def test_examples_in_docstrings_are_sessions(site):
    page = (site / "reference" / "steps.html").read_text()
    assert '<span class="gp">&gt;&gt;&gt; </span>' in page and "<blockquote>" not in page
