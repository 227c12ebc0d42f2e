"""The documentation shows what happens: the README's example, and every doctest in docs/.

The guides, the notebooks and the site have tests of their own (docs_site/).
"""

import contextlib
import doctest
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_readmes_example_prints_what_the_readme_says():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code, shown = re.search(
        r"```python\n(import jax.*?)```\n+```\n(.*?)```", text, re.DOTALL
    ).groups()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    assert printed.getvalue() == shown


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_doctests_of_the_documentation(page):
    failed, _ = doctest.testfile(str(page), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert failed == 0


def test_the_pages_name_the_passes_that_there_are():
    from metagrad.compiler.opt import PASSES

    text = (ROOT / "docs" / "compiler.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in PASSES)
