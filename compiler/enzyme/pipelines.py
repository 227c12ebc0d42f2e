"""The passes of Enzyme's library that expand its ops, as text for the worker: one pipeline for each
order of differentiation.
"""

from __future__ import annotations

_INLINE = "inline{default-pipeline=canonicalize max-iterations=4}"


def _rewrite(pattern: str) -> list[str]:
    """One rewrite out of the many in Enzyme's `enzyme-hlo-opt`."""
    return [
        "enzyme-hlo-generate-td{patterns=" + pattern + "}",
        "transform-interpreter",
        "enzyme-hlo-remove-transform",
    ]


# Loops need this one before they are differentiated. `enzyme-hlo-opt` as a whole must not run
# there: it has rewrites that keep values and change derivatives (`select(x > 0, x, 0)` becomes
# `max(x, 0)`, which has another one at 0).
_BEFORE = [_INLINE, *_rewrite("while_simplify<1>(1)"), "canonicalize", "cse"]

_DIFFERENTIATE = [
    'enzyme{postpasses="arith-raise{stablehlo=true},enzyme-batch-to-stablehlo,canonicalize,cse,'
    "canonicalize,remove-unnecessary-enzyme-ops,enzyme-simplify-math,canonicalize,cse,"
    'canonicalize"}',
    "canonicalize",
    "remove-unnecessary-enzyme-ops",
    "enzyme-simplify-math",
    "cse",
    "canonicalize",
]

# Drops enzymexla attributes, which JAX's parser does not know.
_READABLE = "drop-unsupported-attributes"

# Forward mode makes scatters with several operands, often the same zeros twice, and XLA's CPU
# compiler gets those wrong.
_AFTER = [
    *_rewrite("split_variadic_scatter_op"),
    _INLINE,
    "cse",
    "canonicalize",
    "symbol-dce",
    _READABLE,
]

FIRST_ORDER = ",".join([*_BEFORE, *_DIFFERENTIATE, _READABLE])
"""Of two: what is left is differentiated again."""

SECOND_ORDER = ONLY_ORDER = ",".join([*_BEFORE, *_DIFFERENTIATE, *_AFTER])
"""The last of two; or the only one, of a function that is differentiated once."""
