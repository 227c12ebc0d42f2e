"""Finds where a training run takes a root of zero.

The value is finite there and the derivative is not, so the metagradient is NaN, in JAX as well. The
usual case is an adaptive optimiser without `eps_root` where a gradient is exactly zero: a dead
relu, or a row of an embedding that no batch used.

The step is run once more, forward, with a count beside each root on a path that carries a
derivative. Each value carries the names of the leaves that it was computed from, so that a message
can name them. It costs compiling the plain step, one training run, and memory for one state.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.extend.core import primitives as P

from metagrad.frontend.dtypes import is_float
from metagrad.frontend.grad_primitive import grad_p
from metagrad.frontend.jaxprs.calls import call
from metagrad.frontend.jaxprs.cotangent_flow import ENDS, reaching
from metagrad.frontend.jaxprs.interpret import bind, interpret
from metagrad.runtime import jax_internals

ROOTS = {P.sqrt_p, P.rsqrt_p, P.cbrt_p, P.pow_p, P.log_p}
"""Primitives whose values may be finite where their derivatives are not.

The first operand is what is looked at."""


@dataclasses.dataclass(frozen=True)
class Root:
    """One root in the user's program.

    Attributes:
      primitive: its name.
      function: the function that the root is in; for an optax transformation, the one that makes
          it (`scale_by_adam`).
      line: file and line.
      leaves: what its operand is computed from: paths of float leaves, and inner gradients, named
          by the leaf that they are taken in.
      size: the number of entries of the operand.
    """

    primitive: str
    function: str
    line: str
    leaves: tuple[str, ...]
    size: int


class CountingFunction:
    """A function that also counts, for each root, the entries where its derivative is not finite.

    Beside them, it counts those where the operand is of the size of rounding. The entries are those
    of the root's operand. `roots` is filled when `__call__` is traced.

    Args:
      function: a closed jaxpr.
      names: for each operand, its path, or None if it carries no derivative.
      results: how many of the results, the first ones, are differentiated.
    """

    def __init__(self, function: core.ClosedJaxpr, names: Sequence[str | None], results: int):
        self._function = function
        self._wanted = [i < results for i in range(len(function.out_avals))]
        self._names = [frozenset() if name is None else frozenset([name]) for name in names]
        self.roots: list[Root] = []

    def __call__(self, *operands):
        """(results, counts of shape (roots, 2), dtype int32).

        The first column is of infinite derivatives, the second of operands near zero.
        """
        self.roots = []
        counts: list = []
        results, _ = self._evaluate(
            self._function, operands, self._names, self._wanted, counts, self.roots, None
        )
        return results, jnp.stack(counts) if counts else jnp.zeros((0, 2), jnp.int32)

    def _evaluate(self, closed, operands, names, wanted, counts, roots, caller):
        live = reaching(closed.jaxpr, wanted)

        def rule(eqn, pairs):
            values, origins = zip(*pairs) if pairs else ((), ())
            place = _place(eqn) or caller
            wanted_results = [var in live for var in eqn.outvars]
            called = call(eqn)
            if called is not None and called.straight is not None:
                results, result_origins = self._evaluate(
                    called.straight, values, origins, wanted_results, counts, roots, place
                )
            elif eqn.primitive is P.cond_p:
                results, result_origins = self._branches(
                    eqn, values, origins, wanted_results, counts, roots, place
                )
            else:
                if eqn.primitive in ROOTS and origins[0] and wanted_results[0]:
                    function, line = place or ("the step", "")
                    leaves, size = tuple(sorted(origins[0])), values[0].size
                    roots.append(Root(eqn.primitive.name, function, line, leaves, size))
                    counts.append(_singular(eqn, values))
                results, result_origins = bind(eqn, values), _origins(eqn, origins)
            return list(zip(results, result_origins))

        pairs = interpret(
            closed, list(zip(operands, names)), rule, lambda value: (value, frozenset())
        )
        results, result_origins = zip(*pairs) if pairs else ((), ())
        return list(results), list(result_origins)

    def _branches(self, eqn, values, origins, wanted, counts, roots, place):
        """A conditional: the branch that is taken counts its roots, the others count zero."""
        index, *operands = values
        conditional = call(eqn)
        assert conditional is not None, "conditionals are in the table of calls"
        branches = [body.jaxpr for body in conditional.bodies]
        roots_by_branch, origins_by_branch = [], []
        for branch in branches:
            branch_roots, branch_origins = self._roots_of(
                branch, operands, origins[1:], wanted, place
            )
            roots_by_branch.append(branch_roots)
            origins_by_branch.append(branch_origins)

        def padded(taken, *xs):
            taken_counts: list = []
            results, _ = self._evaluate(
                branches[taken], xs, origins[1:], wanted, taken_counts, [], place
            )
            zero = jnp.zeros(2, jnp.int32)
            return results, [
                count
                for i, branch_roots in enumerate(roots_by_branch)
                for count in (taken_counts if i == taken else [zero] * len(branch_roots))
            ]

        results, branch_counts = jax.lax.switch(
            index, [functools.partial(padded, i) for i in range(len(branches))], *operands
        )
        roots += [root for branch_roots in roots_by_branch for root in branch_roots]
        counts += branch_counts
        return results, [frozenset().union(*origin) for origin in zip(*origins_by_branch)]

    def _roots_of(self, branch, operands, origins, wanted, place):
        """(the roots of a branch, what its results are computed from)."""
        roots: list[Root] = []
        result_origins = []

        def trace(*xs):
            results, origins_of_results = self._evaluate(
                branch, xs, origins, wanted, [], roots, place
            )
            result_origins.extend(origins_of_results)
            return results

        jax.eval_shape(trace, *operands)
        return roots, result_origins


def _origins(eqn, origins) -> list[frozenset[str]]:
    """What the results of an equation are computed from, along paths that carry a derivative."""
    if eqn.primitive in ENDS or not any(origins):
        return [frozenset()] * len(eqn.outvars)
    everything = frozenset().union(*origins)
    result_origins = [everything] * len(eqn.outvars)
    if eqn.primitive is grad_p:
        wrt = eqn.params["wrt"]
        result_origins[len(result_origins) - len(wrt) :] = [
            frozenset(f"the gradient in {name}" for name in origins[i]) or everything for i in wrt
        ]
    return [
        origin if is_float(var.aval) else frozenset()
        for origin, var in zip(result_origins, eqn.outvars)
    ]


def _singular(eqn, values):
    """The entries where operand and result are finite and the derivative is not, and near ones.

    A derivative above 1 / eps is near: the operand is less than the rounding of numbers of size 1.
    Had it been summed in another order, it might have been zero.
    """
    x, *others = values
    result, slope = jax.jvp(lambda x: bind(eqn, [x, *others])[0], (x,), (jnp.ones_like(x),))
    finite = jnp.isfinite(result) & jnp.isfinite(x)
    infinite = finite & ~jnp.isfinite(slope)
    near = finite & jnp.isfinite(slope) & (jnp.abs(slope) > 1 / jnp.finfo(slope.dtype).eps)
    return jnp.stack([jnp.sum(flags, dtype=jnp.int32) for flags in (infinite, near)])


def _place(eqn) -> tuple[str, str] | None:
    """(function, file and line) of an equation, from its traceback.

    None where the traceback has only libraries that JAX hides. optax's transformations are
    closures, `scale_by_adam.<locals>.update_fn`. The innermost of those names the optimiser, which
    says more than a function for norms that it calls.
    """
    frames = jax_internals.user_frames(eqn)
    if not frames:
        return None
    inner = frames[0]
    file = os.sep.join(inner.file_name.split(os.sep)[-3:])
    makers = [
        frame.function_name.split(".<locals>")[0]
        for frame in frames
        if ".<locals>.update" in frame.function_name
    ]
    function = (
        makers[0] if makers else inner.function_name.split(".")[-1].replace("<lambda>", "a lambda")
    )
    return function, f"{file}:{inner.start_line}"
