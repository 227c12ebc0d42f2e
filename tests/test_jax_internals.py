"""JAX's private names stand in one module, so that one file has to change when JAX does."""

import ast
import functools
from pathlib import Path

import pytest

from metagrad.runtime import jax_internals

TREE = Path(__file__).parents[1]
FOLDERS = ("frontend", "compiler", "runtime", "python", "tests", "benchmarks")
HOME = TREE / "runtime" / "jax_internals.py"
MLIRS = {"compiler/dialect/__init__.py": ["jaxlib.mlir.dialects._ods_common._cext"]}
"""What is private to MLIR's bindings and not to JAX.

It stands there because `metagrad-opt` starts without JAX."""

FILES = [
    path for folder in FOLDERS for path in sorted((TREE / folder).rglob("*.py")) if path != HOME
]


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def imported(node: ast.AST) -> list[str]:
    """Dotted names that an import statement brings in from JAX."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        names = []
    return [name for name in names if name.split(".")[0] in ("jax", "jaxlib")]


@functools.cache
def attributes_of_jax_objects() -> set[str]:
    """The private attributes and parameters that the one module reads of JAX's objects."""
    tree = ast.parse(HOME.read_text())
    read = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    passed = {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg}
    return set(filter(private, read | passed))


def private_names(source: str) -> list[str]:
    tree, names = ast.parse(source), []
    watched = attributes_of_jax_objects()
    for node in ast.walk(tree):
        names += [name for name in imported(node) if any(map(private, name.split(".")))]
        if isinstance(node, ast.Attribute) and (
            node.attr in watched or (private(node.attr) and ast.unparse(node).startswith("jax."))
        ):
            names.append(ast.unparse(node))
        if isinstance(node, ast.keyword) and node.arg in watched:
            names.append(f"{node.arg}=")
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TREE)))
def test_nobody_else_uses_a_private_name(path):
    assert private_names(path.read_text()) == MLIRS.get(str(path.relative_to(TREE)), [])


@pytest.mark.parametrize(
    "source",
    [
        "from jax._src import core",
        "import jax._src.core as core",
        "from jax._src.lib import xla_client",
        "from jaxlib import _jax",
        "import jax\njax._src.core.Jaxpr",
        "traced.lower(_private_parameters=rules)",
        "lowered._lowering.compile_args",
        "dtype._impl.name",
    ],
)
def test_such_a_use_is_seen(source):
    assert private_names(source)


def test_every_name_is_used():
    sources = [path.read_text() for path in FILES]
    unused = [
        name
        for name in jax_internals.__all__
        if not any(
            name
            in {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
            | {
                alias.name
                for n in ast.walk(tree)
                if isinstance(n, ast.ImportFrom)
                for alias in n.names
            }
            for tree in map(ast.parse, sources)
        )
    ]
    assert unused == []


def test_what_a_version_does_not_have_is_none():
    assert jax_internals.function("numpy.ufuncs", "_no_such_function") is None
    assert jax_internals.function("no.such.module", "relu") is None
