"""The work of `save-products` grows with the number of loops, not with that of their pairs.

An optimiser that takes a root of each matrix by an iteration has a loop and a way back for each.
"""

import pathlib
import re

import pytest
from jaxlib.mlir import ir

from metagrad.compiler.dialect import functions
from metagrad.compiler.dialect.context import context
from metagrad.compiler.passes.for_xla import save_products

RECURRENCE = (pathlib.Path(__file__).parent / "passes" / "save_products.mlir").read_text()


def many(count):
    """The first function of the pass's own test, `count` times behind one another."""
    start = RECURRENCE.index("\nfunc.func @recurrence(")
    text = RECURRENCE[start : RECURRENCE.index("return %g#2", start)]
    lines = [line for line in text.strip().splitlines() if not line.strip().startswith("//")]
    first_loop = next(i for i, line in enumerate(lines) if "%f:3" in line)
    head, loops = lines[:first_loop], "\n".join(lines[first_loop:])
    copies = [re.sub("%([fg])(?=[:#])", rf"%\g<1>{i}", loops) for i in range(count)]
    end = f"return %g{count - 1}#2 : tensor<2x3xf32>\n}}"
    return "\n".join([*head, *copies, end])


@pytest.mark.parametrize("count", [3, 9])
def test_only_the_way_back_through_a_loop_is_compared_with_it(count, monkeypatch):
    compared = []

    class Counted(save_products.SameValues):
        def __init__(self, *arguments):
            compared.append(arguments)
            super().__init__(*arguments)

    monkeypatch.setattr(save_products, "SameValues", Counted)
    with context(), ir.Location.unknown():
        module = ir.Module.parse(many(count))
        (function,) = module.body.operations
        products = lambda: len(functions.operations(function, save_products.PRODUCTS.__contains__))
        assert products() == 3 * count
        save_products.run(module)
        module.operation.verify()
        assert products() == 2 * count
    # A loop that goes back has two counters, and each may say where it is.
    assert len(compared) <= 2 * count
