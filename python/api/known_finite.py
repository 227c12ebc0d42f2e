"""Which results of a program need no look whether they are finite."""

from __future__ import annotations

from collections.abc import Sequence

from jaxlib.mlir import ir

from metagrad.api.signature import Signature
from metagrad.compiler.dialect import functions, known_zeros


def known_finite(
    module: ir.Module, signature: Signature, unchanged: Sequence[int]
) -> frozenset[int]:
    """Results by index: gradients that are zero for what the step is, and unchanged leaves.

    A NaN in such a leaf of the state is the user's own, and shows in what depends on it. Of a large
    array of zeros XLA would compute the answer when it compiles, for minutes.

    Args:
      module: the finished one, with @main.
      signature: the program's.
      unchanged: the leaves of the state that the step returns as they came, by index.
    """
    is_zero = known_zeros.zero_results(module, functions.get(module, "main"))
    first_gradient = 1 + len(signature.outer_aux.leaves)
    first_state = first_gradient + len(signature.gradient_leaves())
    zeros = (i for i in range(first_gradient, first_state) if is_zero[i])
    return frozenset([*zeros, *(first_state + i for i in unchanged)])
