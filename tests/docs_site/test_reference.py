"""Every public name has a place in the reference."""

import importlib
import re
import types
from pathlib import Path

import pytest

import metagrad

REFERENCE = Path(__file__).parent.parent.parent / "docs" / "reference"


def names_of(module) -> list[str]:
    """The public names of a module: those of `__all__`, or what it defines."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    ]


def public_names() -> list[str]:
    names = [f"metagrad.{name}" for name in metagrad.__all__]
    for place in metagrad._MODULES:
        module = importlib.import_module(f"metagrad.{place}")
        names += [f"metagrad.{place}.{name}" for name in names_of(module)]
    return names


def listed() -> list[str]:
    pages = [page.read_text(encoding="utf-8") for page in REFERENCE.glob("*.md")]
    return re.findall(r"^::: (\S+)", "\n".join(pages), re.MULTILINE)


@pytest.mark.parametrize("name", public_names())
def test_a_public_name_is_in_the_reference(name):
    assert listed().count(name) == 1, f"write `::: {name}` into a page of docs/reference"


def test_the_reference_has_no_other_names():
    assert {*listed()} <= {*public_names()}


def test_every_page_of_the_reference_is_named_at_its_start():
    start = (REFERENCE / "index.md").read_text(encoding="utf-8")
    for page in REFERENCE.glob("*.md"):
        assert page.name == "index.md" or f"({page.name})" in start
