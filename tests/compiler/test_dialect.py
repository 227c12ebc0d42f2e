"""The metagrad dialect has one home: no other file of the compiler or the frontend spells one of
its names.
"""

import ast
import re
from pathlib import Path

import pytest

from metagrad.compiler.dialect import metagrad

ROOT = Path(__file__).parent.parent.parent
HOME = ROOT / "compiler" / "dialect" / "metagrad.py"
FILES = [
    file for folder in ("compiler", "frontend") for file in sorted((ROOT / folder).rglob("*.py"))
]

NAMES = [
    value
    for value in vars(metagrad).values()
    if isinstance(value, str) and re.fullmatch(r"metagrad\.[a-z]\w*", value)
]


def spelled(source: str) -> list[str]:
    """The dialect's names among the string literals of a program.

    Docstrings and messages may speak of them: `metagrad.grad` is also what a user calls.
    """
    tree = ast.parse(source)
    statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in statements
        and node.value in {*NAMES, metagrad.PREFIX}
    ]


def test_names_are_found_in_literals():
    assert len(NAMES) > 10
    assert spelled('x = "metagrad.wrt"') == ["metagrad.wrt"]
    assert spelled('x = f"metagrad.{y}"') == ["metagrad."]
    assert spelled('"""Of metagrad.wrt."""') == spelled('x = "pass metagrad.grad"') == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_names_of_the_dialect_stand_in_one_file(file):
    source = file.read_text(encoding="utf-8")
    assert file == HOME or spelled(source) == []
